"""Trace rollouts or the trainer: the same as ``grpo profile``."""

from __future__ import annotations

import sys

from grpo_core.cli import script
from grpo_core.commands.measure import add_profile_arguments, run_profile

if __name__ == "__main__":
    sys.exit(script("Trace rollouts or the trainer.", add_profile_arguments, run_profile))
