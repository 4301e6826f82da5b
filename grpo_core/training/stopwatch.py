"""Time the parts of a step on the device that computes them."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch.autograd.profiler import record_function

from grpo_core.ledger import spans

Mark = float | torch.cuda.Event
Item = TypeVar("Item")

_LEDGER = {
    "layout": spans.PACKING,
    "scoring": spans.SCORING,
    "loss_forward": spans.FORWARD,
    "backward": spans.BACKWARD,
    "head_gradient": spans.BACKWARD,
    "gradient_sum": spans.GRADIENT_SUM,
    "optimizer": spans.OPTIMIZER,
    "sums": spans.SUMS,
    "publish": spans.PUBLISH,
}
"""The span of the ledger that has the host's time meanwhile."""


class Stopwatch:
    """Times parts by name, marks them in profiler traces and enters them in the ledger. A part has no time of a part
    inside it.

    On a GPU by CUDA events: a part includes its kernels that are still queued when it ends, and nothing synchronizes
    until ``total_ms``. On a CPU by the wall clock.
    """

    def __init__(self, device: torch.device) -> None:
        self._is_cuda = device.type == "cuda"
        self._parts: dict[str, list[tuple[Mark, Mark]]] = defaultdict(list)
        self._inner: dict[str, list[tuple[Mark, Mark]]] = defaultdict(list)  # by the name of the part around them
        self._open: list[str] = []

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        with _LEDGER.get(name, spans.UNNAMED), record_function(name):
            start = self._mark()
            self._open.append(name)
            try:
                yield
            finally:
                self._open.pop()
            marks = (start, self._mark())
            self._parts[name].append(marks)
            if self._open:
                self._inner[self._open[-1]].append(marks)

    def parts(self, name: str, items: Iterator[Item]) -> Iterator[Item]:
        """Yields ``items``, and times how long each one takes to arrive."""
        while True:
            with self.part(name):
                item = next(items, None)
            if item is None:
                return
            yield item

    def total_ms(self, name: str) -> float:
        """The sum of all parts of that name so far. Waits until the device has finished them."""
        return _sum_ms(self._parts[name]) - _sum_ms(self._inner[name])

    def _mark(self) -> Mark:
        if not self._is_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def _sum_ms(found: Sequence[tuple[Mark, Mark]]) -> float:
    return sum(_ms_between(start, end) for start, end in found)


def _ms_between(start: Mark, end: Mark) -> float:
    if isinstance(start, torch.cuda.Event):
        assert isinstance(end, torch.cuda.Event)
        end.synchronize()
        return start.elapsed_time(end)
    assert not isinstance(end, torch.cuda.Event)
    return (end - start) * 1e3
