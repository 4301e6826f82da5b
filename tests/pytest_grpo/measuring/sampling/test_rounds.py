from __future__ import annotations

import gc
import math
import random
import sys
from collections.abc import Callable

import pytest

from pytest_grpo.measuring.sampling.rounds import MIN_SAMPLE_S, RoundSampler
from pytest_grpo.measuring.sampling.sample import Arm, MeasurementError, measure
from pytest_grpo.types import Sample


def recording(calls: list[str], name: str, seconds: float = 1.0) -> Callable[[], Sample]:
    def arm() -> Sample:
        calls.append(name)
        return Sample(seconds, {"tokens": len(calls)})

    return arm


def sampler_of(calls: list[str], *names: str, **settings: float) -> RoundSampler:
    arms: dict[str, Arm] = {name: recording(calls, name) for name in names}
    return RoundSampler(arms, rng=random.Random(1), **settings)  # pyright: ignore[reportArgumentType]


def test_each_round_has_a_random_order_of_its_own() -> None:
    calls: list[str] = []
    sampler = sampler_of(calls, "a", "b")
    assert sampler.take_until(20)
    measured = calls[-40:]
    blocks = ["".join(measured[start : start + 4]) for start in range(0, 40, 4)]
    assert {"abab", "baba"} & set(blocks)
    assert {"abba", "baab"} & set(blocks)


def test_samples_of_a_round_were_taken_next_to_each_other() -> None:
    sampler = sampler_of([], "a", "b")
    sampler.take_until(5)
    distances = [abs(taken["a"].value("tokens") - taken["b"].value("tokens")) for taken in sampler.rounds]
    assert distances == [1] * 5


def test_later_looks_keep_the_rounds_of_earlier_ones() -> None:
    sampler = sampler_of([], "a", "b")
    sampler.take_until(3)
    first = list(sampler.rounds)
    sampler.take_until(5)
    assert sampler.rounds[:3] == first
    assert len(sampler.rounds) == 5


def test_warm_up_ends_when_two_runs_take_about_as_long_and_is_not_kept() -> None:
    calls: list[str] = []
    seconds = iter([9.0, 4.0, 2.0, 2.1, *[2.0] * 10])

    def arm() -> Sample:
        calls.append("a")
        return Sample(next(seconds))

    sampler = RoundSampler({"a": arm}, budget_s=100)
    sampler.take_until(1)
    assert len(calls) == 5
    assert len(sampler.rounds) == 1


def test_short_work_is_repeated_until_a_sample_is_long_enough() -> None:
    sampler = RoundSampler({"short": lambda: None})
    sampler.take_until(1)
    assert 0 < sampler.rounds[0]["short"].value("seconds") < MIN_SAMPLE_S
    calls: list[str] = []
    long = sampler_of(calls, "long")
    long.take_until(1)
    assert len(calls) == 3  # two for the warm-up, and one


def test_a_repeated_sample_is_the_mean_of_its_runs_and_the_last_output() -> None:
    runs = iter([Sample(1.0, {"tokens": 10}, "first"), Sample(3.0, {"tokens": 30}, "last")])
    sample = measure(lambda: next(runs), "a", repeats=2)
    assert (sample.seconds, dict(sample.quantities), sample.output) == (2.0, {"tokens": 20}, "last")
    assert sample.value("tokens_per_second") == 10


def test_an_arm_may_leave_the_timing_to_the_harness() -> None:
    for arm in (lambda: None, lambda: {"tokens": 3}, lambda: Sample(output=1)):
        assert 0 < measure(arm, "a").value("seconds") < 60
    assert measure(lambda: {"tokens": 3, "seconds": 2.0}, "a").value("seconds") == 2


def test_block_mode_runs_an_arm_in_a_row_and_leaves_out_its_first_run() -> None:
    calls: list[str] = []
    sampler = sampler_of(calls, "a", "b", block_size=3)
    sampler.take_until(2)
    measured = "".join(calls[-16:])
    assert set(measured[start : start + 4] for start in range(0, 16, 4)) == {"aaaa", "bbbb"}
    first = sampler.rounds[0]["a"].value("tokens")
    assert first == round(first)  # the mean of three counts in a row


def test_the_budget_ends_the_rounds_and_says_so() -> None:
    sampler = RoundSampler({"a": lambda: None}, budget_s=0.2)
    assert not sampler.take_until(1000)
    assert 1 <= len(sampler.rounds) < 10


def test_a_round_can_be_dropped_and_the_last_one_announced() -> None:
    sampler = sampler_of([], "a", "b")

    def drop_the_first(taken: object) -> bool:
        if sampler.rounds[-1]["a"].value("tokens") < 7:
            sampler.drop_last()
        return True

    sampler.take_until(3, drop_the_first)
    assert len(sampler.rounds) == 3
    sampler.take_until(9, lambda taken: False)
    assert len(sampler.rounds) == 4


@pytest.mark.parametrize(
    ("outcome", "what"),
    [
        (Sample(0.0), "seconds 0.0"),
        (Sample(-1.0), "seconds -1.0"),
        (Sample(math.nan), "seconds nan"),
        ({"seconds": math.inf}, "seconds inf"),
        (Sample(1, {"tokens": 0}), "tokens 0"),
        (Sample(1, {"num_calls": -1}), "num_calls -1"),
        ({"tokens": "many"}, "tokens 'many'"),
        ([], "returned \\[\\]"),
        ({}, "returned {}"),
        (3.0, "returned 3.0"),
    ],
)
def test_impossible_samples_name_their_arm(outcome: Sample, what: str) -> None:
    with pytest.raises(MeasurementError, match=f"arm 'slow':? {what}") as caught:
        RoundSampler({"fast": lambda: None, "slow": lambda: outcome}).take_until(2)
    assert "\n" not in str(caught.value)


def test_a_count_may_be_zero() -> None:
    assert measure(lambda: {"num_calls": 0}, "a").value("num_calls") == 0


def test_runs_must_measure_the_same() -> None:
    runs = iter([{"tokens": 1}, {"bytes": 1}, None, {"tokens": 1}])
    with pytest.raises(MeasurementError, match="returned different quantities"):
        measure(lambda: next(runs), "a", repeats=2)
    with pytest.raises(MeasurementError, match="returned a result in 1 of 2 runs"):
        measure(lambda: next(runs), "a", repeats=2)


def test_an_arm_that_raises_is_named_and_leaves_collection_on() -> None:
    def broken() -> None:
        assert not gc.isenabled()
        raise KeyError("lost")

    with pytest.raises(KeyError, match="lost") as caught:
        RoundSampler({"fast": broken}).take_until(2)
    assert caught.value.__notes__ == ["raised in arm 'fast'"]
    assert gc.isenabled()


def test_collection_that_was_off_stays_off() -> None:
    gc.disable()
    try:
        measure(lambda: None, "a")
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_what_was_there_before_is_not_collected_while_arms_run() -> None:
    num_frozen: list[int] = []

    def arm() -> None:
        num_frozen.append(gc.get_freeze_count())

    gc.unfreeze()  # what the session around this test has frozen
    RoundSampler({"a": arm}).take_until(2)
    assert min(num_frozen) > 0
    assert gc.get_freeze_count() == 0


def test_objects_that_the_process_has_frozen_stay_frozen() -> None:
    gc.freeze()
    num_frozen = gc.get_freeze_count()
    try:
        RoundSampler({"a": lambda: None}).take_until(2)
        assert 0 < gc.get_freeze_count() <= num_frozen  # less those that another thread no longer uses
    finally:
        gc.unfreeze()


def test_measuring_imports_no_torch(pytester: pytest.Pytester) -> None:
    measuring = "from pytest_grpo.measuring.sampling.sample import measure; measure(lambda: None, 'a')"
    script = f"import sys; {measuring}; print('torch' in sys.modules)"
    assert pytester.run(sys.executable, "-c", script).stdout.str() == "False"


@pytest.mark.skipif("not __import__('torch').cuda.is_available()", reason="needs a GPU")
def test_on_a_gpu_the_devices_own_events_are_read() -> None:
    import torch

    a = torch.randn(4096, 4096, device="cuda")
    sample = measure(lambda: {"products": float(bool((a @ a).any()))}, "a")
    assert 0 < sample.value("seconds") < 60


@pytest.mark.parametrize(
    ("outcome", "says"),
    [
        (Sample(quantities={"seconds": 9.0}), "seconds is a field of its own; return Sample"),
        ({"tokens": "5"}, "tokens '5' is no number; quantities are numbers, e.g. float"),
        ({"tokens": 5, "output": [1]}, r"output \[1\] is no number; .* an output is returned by Sample"),
    ],
)
def test_what_an_arm_cannot_return_is_said(outcome: Sample | dict[str, float], says: str) -> None:
    with pytest.raises(MeasurementError, match=f"arm 'a': {says}"):
        measure(lambda: outcome, "a")
