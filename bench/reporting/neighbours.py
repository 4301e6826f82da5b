"""Processes that burn a core each, beside which a benchmark is timed: a machine is seldom idle."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

SPIN = "while True: pass"


@contextmanager
def busy_neighbours(count: int) -> Iterator[list[int]]:
    """The ids of ``count`` processes that compute without end, until the block is left."""
    with ExitStack() as stack:
        yield [stack.enter_context(_busy()) for _ in range(count)]


@contextmanager
def _busy() -> Iterator[int]:
    process = subprocess.Popen([sys.executable, "-S", "-c", SPIN])
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()
