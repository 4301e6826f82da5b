"""Step times of sessions whose truth is known, simulated and recorded: what the plugin and three others judge."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.verdict_study.noises import JITTER, Floats
from pytest_grpo.measuring.machine.quiet import COUNTER_ERROR_S
from pytest_grpo.settings.option_values import DEFAULT_MAX_CORES_OF_OTHERS

RECORDED = Path(__file__).with_name("recorded.json")
NUM_PAIRS = 40
NUM_STORED = 20
MACHINE_SWING = 0.05
"""Between sessions, of both arms alike: another frequency, another host."""
SESSION_SPREAD = 0.05
NEIGHBOUR_SHARE = 0.3
"""Of the sessions have a neighbour, ..."""
NEIGHBOUR_SLOWDOWN = 0.15
"""... which slows one arm, because it needs both cores, ..."""
MIN_STAY, MAX_STAY = 20, 60
"""... and goes after so many pairs."""


@dataclass(frozen=True, slots=True)
class Series:
    """Log seconds. The arm ``fast`` should be as fast as ``slow``; others measure only the first."""

    fast: Floats
    """Now [trials, pairs]."""
    slow: Floats
    is_quiet: NDArray[np.bool_]
    """Whether the plugin keeps the pair."""
    fast_stored: Floats
    """In earlier sessions [trials, sessions, pairs]."""
    slow_stored: Floats
    is_quiet_stored: NDArray[np.bool_]

    def slower_by(self, loss: float) -> Series:
        """The same series of a build that has lost speed since the stored sessions."""
        return replace(self, fast=self.fast + math.log1p(loss))


Draw = Callable[[np.random.Generator, int], Series]


def simulated(rng: np.random.Generator, num_trials: int, *, spread: float = 0.0, neighbours: float = 0.0) -> Series:
    """Each sample has its own 4 %, each session its luck in ``spread``, and a share of them ``neighbours``."""
    shape = (num_trials, NUM_STORED + 1, NUM_PAIRS)
    machine = MACHINE_SWING * rng.standard_normal((*shape[:2], 1))
    fast, slow = (machine + JITTER * rng.standard_normal(shape) for _ in range(2))
    fast += spread * rng.standard_normal((*shape[:2], 1))
    stays = rng.integers(MIN_STAY, MAX_STAY + 1, (*shape[:2], 1))
    is_busy = (rng.random((*shape[:2], 1)) < neighbours) & (np.arange(NUM_PAIRS) < stays)
    fast += np.where(is_busy, math.log1p(NEIGHBOUR_SLOWDOWN), 0.0)
    return Series(fast[:, 0], slow[:, 0], ~is_busy[:, 0], fast[:, 1:], slow[:, 1:], ~is_busy[:, 1:])


def recorded(rng: np.random.Generator, num_trials: int, *, has_neighbour: bool) -> Series:
    """Pairs of the recorded sessions, drawn again. The stored sessions are those without the busy process."""
    sessions = json.loads(RECORDED.read_text(encoding="utf-8"))["sessions"]
    alone = [session for session in sessions if not session["has_neighbour"]]
    now = [session for session in sessions if session["has_neighbour"] == has_neighbour]

    def read(chosen: list[dict[str, list[float]]]) -> Floats:
        return np.array([[s["two_threads_s"], s["one_thread_s"], s["cores_of_others"]] for s in chosen])

    drawn = _drawn(rng, read(now), (num_trials, 1))[:, 0]
    (fast, slow, others), stored = np.moveaxis(drawn, 1, 0), _drawn(rng, read(alone), (num_trials, NUM_STORED))
    stored_fast, stored_slow, stored_others = np.moveaxis(stored, 2, 0)
    is_quiet_stored = _is_quiet(stored_others, stored_fast + stored_slow)
    # Two threads and one differ by a constant, the same in all sessions: that of the quiet pairs, where there are any.
    constant = float(np.median(np.log(stored_fast / stored_slow)[is_quiet_stored | ~is_quiet_stored.any()]))
    return Series(
        np.log(fast),
        np.log(slow) + constant,
        _is_quiet(others, fast + slow),
        np.log(stored_fast),
        np.log(stored_slow) + constant,
        is_quiet_stored,
    )


def _is_quiet(cores_of_others: Floats, elapsed_s: Floats) -> NDArray[np.bool_]:
    return cores_of_others <= DEFAULT_MAX_CORES_OF_OTHERS + COUNTER_ERROR_S / elapsed_s


def _drawn(rng: np.random.Generator, sessions: Floats, shape: tuple[int, int]) -> Floats:
    """Sessions [*shape, quantities, pairs] out of [sessions, quantities, pairs], then pairs within them."""
    which = rng.integers(0, len(sessions), shape)
    pairs = rng.integers(0, sessions.shape[-1], (*shape, 1, NUM_PAIRS))
    return np.take_along_axis(sessions[which], np.broadcast_to(pairs, (*shape, 3, NUM_PAIRS)), axis=-1)
