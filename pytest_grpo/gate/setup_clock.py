"""A bound for what a test does beside its pairs: load a model, open an engine, run exact steps.

The clock runs from the test's set-up to its teardown, and stands still while arms are compared, which have a limit of
their own. When it ends, the test is left, as by Ctrl-C, and is inconclusive.
"""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

import pytest

from pytest_grpo.settings.config import PluginConfig
from pytest_grpo.settings.device import describe_device
from pytest_grpo.settings.phases import phases_of
from pytest_grpo.types import Row, Verdict

SETUP_FACTOR = 5
"""Set-up may take so many times ``--grpo-budget``, as slow arms may."""
MIN_SETUP_S = 120.0
"""The least bound: with a small budget a model has to be loaded, too."""
AGAIN_S = 5.0
"""Code that swallowed the end of its set-up is asked again after so long."""


class SetupTooLongError(pytest.xfail.Exception):
    """The set-up of a test was ended: it is inconclusive."""


@dataclass(slots=True)
class SetupClock:
    """An alarm of this process. Where another plugin uses the alarm, or outside of the main thread, it does nothing."""

    _handler: Callable[[int, FrameType | None], NoReturn] | None = None

    def start(self, limit_s: float, end: Callable[[], NoReturn]) -> None:
        """Call ``end`` in ``limit_s`` seconds, unless ``stop`` comes before."""
        is_free = signal.getsignal(signal.SIGALRM) is signal.SIG_DFL
        if not is_free or threading.current_thread() is not threading.main_thread():
            return

        def handle(number: int, frame: FrameType | None) -> NoReturn:
            end()

        self._handler = handle
        signal.signal(signal.SIGALRM, handle)
        signal.setitimer(signal.ITIMER_REAL, limit_s, AGAIN_S)

    def stop(self) -> None:
        """Without effect where it does not run."""
        if self._is_running():
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
        self._handler = None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stand still."""
        if not self._is_running():
            yield
            return
        left_s, _ = signal.setitimer(signal.ITIMER_REAL, 0)
        try:
            yield
        finally:
            if self._is_running() and left_s:
                signal.setitimer(signal.ITIMER_REAL, left_s, AGAIN_S)

    def _is_running(self) -> bool:
        return self._handler is not None and signal.getsignal(signal.SIGALRM) is self._handler


def setup_limit_s(budget_s: float) -> float:
    """How long a test may take beside its pairs."""
    return max(MIN_SETUP_S, SETUP_FACTOR * budget_s)


def end_setup(item: pytest.Item, settings: PluginConfig) -> NoReturn:
    """Record that ``item`` took too long before it was decided.

    Raises:
        SetupTooLongError: it is inconclusive.
        pytest.fail.Exception: the session counts that as a failure.
    """
    limit_s = setup_limit_s(settings.budget_s)
    enough = math.ceil(2 * limit_s / SETUP_FACTOR)
    reason = f"its set-up was ended after {limit_s:g} s; give --grpo-budget {enough}, or a smaller run"
    row = Row(
        metric="setup_s",
        phase=min(phases_of(item), default=None),
        kind="at_most",
        bound_low=None,
        bound_high=limit_s,
        threshold=f"<= {limit_s:g} s",
        source=f"--grpo-budget {settings.budget_s:g}",
        unit="s",
        verdict=Verdict.INCONCLUSIVE.value,
        reason=reason,
        measured=limit_s,
        device=describe_device(settings.profile),
        num_pairs=0,  # it counts among the timing gates that decided nothing
    )
    if row.as_property() not in item.user_properties:
        item.user_properties.append(row.as_property())
    if settings.inconclusive == "fail":
        pytest.fail(f"setup_s: inconclusive: {reason}", pytrace=False)
    raise SetupTooLongError(f"setup_s: inconclusive: {reason}")
