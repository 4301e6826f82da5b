"""What ``torchrun`` starts: ``grpo`` with the arguments in ``GRPO_ARGUMENTS``, a JSON list.

``torchrun`` takes a flag of ours that begins like one of its own (``--run``, ``--run-path``) for its own, even behind
the name of the script.
"""

from __future__ import annotations

import json
import os
import sys

from grpo_core.cli import main

VARIABLE = "GRPO_ARGUMENTS"

if __name__ == "__main__":
    sys.exit(main(json.loads(os.environ[VARIABLE])))
