"""Which rounds count: those during which nobody else used the cores and no GPU was throttled.

A second busy core slows an arm of two threads and leaves an arm of one thread alone. No order of the samples cancels
that, so such rounds are taken again.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from pytest_grpo.measuring.machine.conditions import throttle_reasons
from pytest_grpo.measuring.machine.cpu_use import CpuUse, num_cores_out_of_reach

WAIT_SHARE = 0.25
"""Of the time limit of a gate: how long it waits for quiet, in addition."""
POLL_S = 0.25
COUNTER_ERROR_S = 0.03
"""The counters advance in steps of 10 ms, several of them."""


@dataclass(slots=True)
class QuietGuard:
    """Tells which rounds count, and waits for quiet after one that does not, at most ``max_wait_s`` in all."""

    max_cores: float
    max_wait_s: float
    with_gpu: bool = False
    num_busy: int = 0
    num_throttled: int = 0
    waited_s: float = 0.0
    _before: CpuUse = field(default_factory=lambda: CpuUse.read())
    _kept_s: float = 0.0
    _others_s: float = 0.0
    """Used by others during the rounds that count."""

    def start_round(self) -> None:
        self._before = CpuUse.read()

    def counts(self, *, waits: bool = True) -> bool:
        """Whether the round since ``start_round`` counts. After a busy one it ``waits`` for quiet."""
        before, now = self._before, CpuUse.read()
        others_s = now.others_since(before) or 0.0
        is_throttled = self.with_gpu and bool(throttle_reasons())
        if not self._is_busy(others_s, now.at_s - before.at_s):
            self.num_throttled += is_throttled
            if not is_throttled:
                self._kept_s += now.at_s - before.at_s
                self._others_s += others_s
            return not is_throttled
        if waits:
            self.num_busy += 1
            self._wait()
        return False

    def problem(self) -> str:
        """Why the rounds that count cannot be trusted either; empty when they can.

        A little work in each of many short rounds is seen in their sum only.
        """
        if not self._is_busy(self._others_s, self._kept_s):
            return ""
        return f"other processes used {self._others_s / self._kept_s:.2g} cores on average, {self._allowed} are allowed"

    def left_out(self) -> str:
        """How many rounds did not count, and why; empty when all did."""
        parts = []
        if self.num_busy:
            waited = f"waited {self.waited_s:.1f} s for quiet"
            parts.append(f"{self.num_busy} were left out because other processes used the cores ({waited})")
        if self.num_throttled:
            parts.append(f"{self.num_throttled} were left out because the GPU was throttled")
        return "; ".join(parts)

    @property
    def _allowed(self) -> str:
        return f"{self.max_cores + num_cores_out_of_reach():g}"

    def _is_busy(self, others_s: float, elapsed_s: float) -> bool:
        return others_s > (self.max_cores + num_cores_out_of_reach()) * elapsed_s + COUNTER_ERROR_S

    def _wait(self) -> None:
        now = CpuUse.read()
        while self.waited_s < self.max_wait_s:
            before = now
            time.sleep(min(POLL_S, self.max_wait_s - self.waited_s))
            now = CpuUse.read()
            self.waited_s += now.at_s - before.at_s
            if not self._is_busy(now.others_since(before) or 0.0, now.at_s - before.at_s):
                return
