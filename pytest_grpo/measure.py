"""Measuring two arms side by side: interleaved pairs in random order, with a quiet clock.

On a shared machine the speed drifts. Two samples taken next to each other share most of that drift, so their ratio
does not see it; mirrored orders (ABBA or BAAB, at random) cancel what is linear.
"""

from __future__ import annotations

import gc
import math
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sample:
    """How much was done in how many seconds, e.g. tokens. Only ``quantity / seconds`` is compared."""

    quantity: float
    seconds: float

    @property
    def per_second(self) -> float:
        return self.quantity / self.seconds


Arm = Callable[[], Sample | None]
"""One side of a comparison. It returns what it measured itself, or None to be timed as one unit of work."""

Progress = Callable[[int, int], None]
"""Called with the pairs done and the pairs planned."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """The samples of two arms; samples at the same index were taken next to each other."""

    a: tuple[Sample, ...]
    b: tuple[Sample, ...]


def interleave(
    a: Arm,
    b: Arm,
    pairs: int,
    warmup: int = 1,
    rng: random.Random | None = None,
    names: tuple[str, str] = ("a", "b"),
    progress: Progress | None = None,
) -> Pairs:
    """Measure both arms ``pairs`` times, next to each other, in random mirrored order.

    Each arm first runs ``warmup`` times unmeasured. An exception of an arm carries the arm's name as a note.

    Raises:
        ValueError: an arm measured a quantity or a duration that is not finite and above zero.
    """
    assert pairs >= 1
    rng = rng or random.Random()
    arms = (a, b)
    for _ in range(warmup):
        for arm, name in zip(arms, names, strict=True):
            measure(arm, name)
    taken: tuple[list[Sample], list[Sample]] = ([], [])
    first = 0
    for index in range(pairs):
        first = rng.randrange(2) if index % 2 == 0 else 1 - first
        for which in (first, 1 - first):
            taken[which].append(measure(arms[which], names[which]))
        if progress is not None:
            progress(index + 1, pairs)
    return Pairs(a=tuple(taken[0]), b=tuple(taken[1]))


def measure(arm: Arm, name: str) -> Sample:
    """One sample of ``arm``, with garbage collection out of the way and the device idle at both ends.

    Raises:
        ValueError: the quantity or the duration is not finite and above zero.
    """
    with _quiet(name):
        synchronize()
        start = time.perf_counter()
        sample = arm()
        synchronize()
        elapsed = time.perf_counter() - start
    if sample is None:
        sample = Sample(quantity=1.0, seconds=elapsed)
    for value, what in ((sample.quantity, "quantity"), (sample.seconds, "seconds")):
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"arm {name!r}: {what} {value!r} must be finite and above zero; check what it measures")
    return sample


def synchronize() -> None:
    """Wait for the GPU, if this process uses one. Never imports torch: without it there is nothing to wait for."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.synchronize()


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    except Exception as error:
        error.add_note(f"while measuring arm {name!r}")
        raise
    finally:
        if was_enabled:
            gc.enable()
