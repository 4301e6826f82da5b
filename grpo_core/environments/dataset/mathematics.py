"""The reward ``math_verify``: whether an answer is mathematically the right one, by the package of that name.

The package bounds its time with signals, which only a main thread gets, and an answer such as ``9^{9^{9^{9}}}`` keeps
sympy busy where no signal reaches it. So it works in a process of its own, which is ended when it takes too long.
"""

from __future__ import annotations

import atexit
import logging
import multiprocessing
import signal
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from multiprocessing.pool import Pool
from threading import Lock
from typing import Any

from grpo_core.errors import MissingPackageError
from grpo_core.extras import install_command

MAX_S = 10.0
"""For one answer. Python, sympy and the package start within ``MAX_START_S``."""
MAX_START_S = 120.0

logger = logging.getLogger(__name__)


def math_verify(completions: Sequence[Any], answer: Sequence[Any]) -> list[float]:
    """1 for each of ``completions``, texts or lists of messages, that says what the column ``answer`` says, else 0.

    An ``answer`` is a number, or a text with LaTeX or without.
    """
    texts = [one if isinstance(one, str) else one[-1]["content"] for one in completions]
    return [float(_VERIFIER.is_right(str(right), text)) for right, text in zip(answer, texts, strict=True)]


def check_math_verify() -> None:
    """
    Raises:
        MissingPackageError: math-verify is not installed.
    """
    if find_spec("math_verify") is None:
        raise MissingPackageError(
            f"the reward math_verify needs the package math-verify; run: {install_command('math')}"
        )


class _Verifier:
    """One process for all calls, started by the first one."""

    def __init__(self) -> None:
        self._pool: Pool | None = None
        self._lock = Lock()

    def is_right(self, right: str, text: str) -> bool:
        """Whether ``text`` says what ``right`` says. False where that is not found out in time."""
        with self._lock:
            pool = self._started()
            try:
                return pool.apply_async(_is_right, (right, text)).get(MAX_S)
            except multiprocessing.TimeoutError:
                logger.info("math_verify: no result within %g s for %.60r", MAX_S, text)
                self._end()
                return False

    def _started(self) -> Pool:
        if self._pool is None:
            self._pool = multiprocessing.get_context("spawn").Pool(1, signal.signal, (signal.SIGINT, signal.SIG_IGN))
            self._pool.apply_async(_is_right, ("1", "1")).get(MAX_START_S)
            atexit.register(self._end)
        return self._pool

    def _end(self) -> None:
        if self._pool is not None:
            self._pool.terminate()
            self._pool.join()
            self._pool = None


_VERIFIER = _Verifier()


def _is_right(right: str, text: str) -> bool:
    """In the process: its main thread, which the package's own limit of 5 s needs."""
    package: Any = import_module("math_verify")
    gold = package.parse(right) or package.parse(f"${right}$")  # LaTeX is read within dollars only
    return bool(gold) and bool(package.verify(gold, package.parse(text)))
