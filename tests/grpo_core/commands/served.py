"""A command that serves until Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def served(arguments: list[str], home: Path) -> Iterator[IO[str]]:
    """What ``grpo`` prints meanwhile. At the end it gets Ctrl-C, and must return 0 without a word of trouble."""
    with subprocess.Popen(
        [sys.executable, "-m", "grpo_core.cli", *arguments],
        env={**os.environ, "GRPO_HOME": str(home), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            yield process.stdout
            process.send_signal(signal.SIGINT)
            assert process.wait() == 0
            assert process.stderr.read() == ""
        finally:
            process.kill()
