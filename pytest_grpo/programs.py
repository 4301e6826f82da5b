"""How ``grpo ab``, ``bisect``, ``compare``, ``history`` and ``judge`` end: what goes wrong is one line on stderr."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence

import pytest

Main = Callable[[Sequence[str] | None], int]
"""Takes the arguments, by default those of the process, and returns an exit code."""

USAGE_EXIT_CODE = 2
INTERRUPTED_EXIT_CODE = 130


def program(main: Main) -> Callable[..., int]:
    """``main``, in which a usage error ends with exit code 2, and Ctrl-C with 130."""

    @functools.wraps(main)
    def run(arguments: Sequence[str] | None = None) -> int:
        try:
            return main(arguments)
        except pytest.UsageError as error:
            print(f"grpo: error: {error}", file=sys.stderr)
            return USAGE_EXIT_CODE
        except KeyboardInterrupt:
            print("grpo: interrupted", file=sys.stderr)
            return INTERRUPTED_EXIT_CODE

    return run
