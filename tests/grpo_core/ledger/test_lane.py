"""A lane has few intervals, without gaps, however many changes it was told."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from grpo_core.ledger.lane import FIRST_RESOLUTION_S, MAX_INTERVALS, Lane


def test_intervals_of_one_name_are_one() -> None:
    lane = Lane(10.0)
    for name, start_s, end_s in (("sample", 10, 11), ("sample", 11, 13), ("store", 13, 14), ("sample", 14, 15)):
        lane.add(name, start_s, end_s)
    found = [(part.name, part.start_s, part.seconds) for part in lane.intervals()]
    assert found == [("sample", 0, 3), ("store", 3, 1), ("sample", 4, 1)]


def test_a_moment_belongs_to_what_was_before() -> None:
    lane = Lane(0.0)
    for name, start_s, end_s in (("sample", 0.0, 1.0), ("other", 1.0, 1.0005), ("sample", 1.0005, 2.0)):
        lane.add(name, start_s, end_s)
    (part,) = lane.intervals()
    assert (part.name, part.seconds) == ("sample", 2.0)


@pytest.mark.parametrize("longest_s", [FIRST_RESOLUTION_S, 1.0])
def test_many_changes_make_a_coarser_lane(longest_s: float) -> None:
    rng, lane, now_s = np.random.default_rng(0), Lane(5.0), 5.0
    for number in range(20_000):
        end_s = now_s + float(rng.uniform(0, longest_s))
        lane.add("sample" if number % 2 else "wait.engine", now_s, end_s)
        now_s = end_s
    parts = lane.intervals()
    assert 1 <= len(parts) <= MAX_INTERVALS
    assert sum(part.seconds for part in parts) == pytest.approx(now_s - 5.0)
    assert parts[0].start_s == 0
    for before, after in itertools.pairwise(parts):
        assert after.start_s == pytest.approx(before.start_s + before.seconds)
