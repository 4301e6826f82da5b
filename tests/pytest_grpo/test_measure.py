from __future__ import annotations

import gc
import math
import random
import sys

import pytest

from pytest_grpo.measure import Arm, Sample, interleave, measure


def recording(calls: list[str], name: str) -> Arm:
    def arm() -> Sample:
        calls.append(name)
        return Sample(quantity=len(calls), seconds=1.0)

    return arm


def test_orders_are_random_and_mirrored_within_each_two_pairs() -> None:
    calls: list[str] = []
    interleave(recording(calls, "a"), recording(calls, "b"), pairs=10, warmup=0, rng=random.Random(1))
    blocks = ["".join(calls[start : start + 4]) for start in range(0, 20, 4)]
    assert set(blocks) == {"abba", "baab"}


def test_samples_of_a_pair_were_taken_next_to_each_other() -> None:
    calls: list[str] = []
    pairs = interleave(recording(calls, "a"), recording(calls, "b"), pairs=5, warmup=0)
    assert len(pairs.a) == len(pairs.b) == 5
    assert [abs(a.quantity - b.quantity) for a, b in zip(pairs.a, pairs.b, strict=True)] == [1] * 5


def test_warm_up_runs_both_arms_and_is_not_kept() -> None:
    calls: list[str] = []
    pairs = interleave(recording(calls, "a"), recording(calls, "b"), pairs=1, warmup=2)
    assert calls[:4] == ["a", "b", "a", "b"]
    assert min(pairs.a[0].quantity, pairs.b[0].quantity) == 5


def test_progress_counts_pairs() -> None:
    seen: list[tuple[int, int]] = []
    interleave(lambda: None, lambda: None, pairs=3, progress=lambda done, planned: seen.append((done, planned)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_an_arm_without_a_sample_is_timed_as_one_unit() -> None:
    sample = measure(lambda: None, "a")
    assert sample.quantity == 1
    assert 0 < sample.seconds < 60


@pytest.mark.parametrize(
    ("sample", "what"),
    [
        (Sample(1, 0.0), "seconds 0.0"),
        (Sample(1, -1.0), "seconds -1.0"),
        (Sample(1, math.nan), "seconds nan"),
        (Sample(0, 1.0), "quantity 0"),
        (Sample(math.inf, 1.0), "quantity inf"),
    ],
)
def test_impossible_samples_name_their_arm(sample: Sample, what: str) -> None:
    with pytest.raises(ValueError, match=f"arm 'slow': {what}"):
        interleave(lambda: None, lambda: sample, pairs=2, names=("fast", "slow"))


def test_an_arm_that_raises_is_named_and_leaves_collection_on() -> None:
    def broken() -> None:
        assert not gc.isenabled()
        raise KeyError("lost")

    with pytest.raises(KeyError, match="lost") as caught:
        interleave(broken, lambda: None, pairs=2, names=("fast", "slow"))
    assert caught.value.__notes__ == ["while measuring arm 'fast'"]
    assert gc.isenabled()


def test_collection_that_was_off_stays_off() -> None:
    gc.disable()
    try:
        measure(lambda: None, "a")
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_measuring_imports_no_torch(pytester: pytest.Pytester) -> None:
    script = (
        "import sys; from pytest_grpo.measure import measure; measure(lambda: None, 'a'); print('torch' in sys.modules)"
    )
    assert pytester.run(sys.executable, "-c", script).stdout.str() == "False"
