"""Time rollouts, the trainer or the whole loop: the same as ``grpo benchmark``."""

from __future__ import annotations

import sys

from grpo_core.cli import script
from grpo_core.commands.measure import add_benchmark_arguments, run_benchmark

if __name__ == "__main__":
    sys.exit(script("Time rollouts, the trainer or the whole loop.", add_benchmark_arguments, run_benchmark))
