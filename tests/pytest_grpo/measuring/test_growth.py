"""A red gate names the span that grew, and no span that did not."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping

import pytest

from grpo_core.ledger import spans
from grpo_core.ledger.recorder import bound, recording
from pytest_grpo.measuring.growth import describe_growth
from pytest_grpo.measuring.sampling.sample import measure
from pytest_grpo.types import Sample

SPANS = {"train.forward": 0.4, "train.backward": 0.5, "publish": 0.1, "load": 0.001}


def sample(rng: random.Random, factors: Mapping[str, float]) -> Sample:
    found = {name: seconds * factors.get(name, 1.0) * rng.uniform(0.97, 1.03) for name, seconds in SPANS.items()}
    return Sample(sum(found.values()), spans=found)


def rounds(num_rounds: int, slow: Mapping[str, float], seed: int = 0) -> list[dict[str, Sample]]:
    rng = random.Random(seed)
    return [{"new": sample(rng, slow), "old": sample(rng, {})} for _ in range(num_rounds)]


@pytest.mark.parametrize("names", [("new", "old"), ("old", "new")])
def test_it_names_the_span_that_grew_with_its_interval(names: tuple[str, str]) -> None:
    text = describe_growth(rounds(20, {"train.backward": 1.38}), names)
    what, _, rest = text.partition(" [")
    assert what in {f"in new: train.backward +{percent} %" for percent in range(35, 42)}
    assert rest.endswith("], the rest unchanged")
    low, high = (int(end) for end in rest.partition("]")[0].split(", "))
    assert 30 < low < 38 < high < 46


def test_two_are_named_and_the_others_counted() -> None:
    grown = {"train.backward": 1.4, "train.forward": 1.3, "publish": 2.0}
    text = describe_growth(rounds(20, grown), ("new", "old"))
    assert text.startswith("in new: train.backward +")
    assert ", train.forward +" in text
    assert text.endswith(", 1 more changed")


def test_nothing_is_named_where_nothing_grew() -> None:
    named = [bool(describe_growth(rounds(20, {}, seed), ("new", "old"))) for seed in range(100)]
    assert sum(named) <= 15  # each may be wrong with a probability of 5 %


def test_too_few_pairs_prove_nothing() -> None:
    assert describe_growth(rounds(3, {"train.backward": 2.0}), ("new", "old")) == ""
    assert describe_growth([], ("new", "old")) == ""


def test_a_small_span_is_not_why() -> None:
    assert "load" not in describe_growth(rounds(20, {"load": 5.0, "train.backward": 1.3}), ("new", "old"))


def test_arms_without_spans_have_nothing_to_say() -> None:
    plain = [{"new": Sample(2.0), "old": Sample(1.0)}] * 20
    assert describe_growth(plain, ("new", "old")) == ""


def test_a_measured_sample_has_the_spans_of_its_thread() -> None:
    """Also those of a run that has a ledger of its own."""

    def arm() -> None:
        with spans.FORWARD:
            time.sleep(0.002)
        with recording("trainer-0", "train"), spans.BACKWARD:
            time.sleep(0.002)

    found = measure(arm, "arm", repeats=2)
    assert set(found.spans) == {"train.forward", "train.backward"}
    assert found.seconds is not None
    assert min(found.spans.values()) >= 0.002
    assert sum(found.spans.values()) <= found.seconds
    assert bound.recorder is None


def test_what_an_arm_reports_itself_stays() -> None:
    assert measure(lambda: Sample(1.0, spans={"their.part": 0.5}), "arm").spans == {"their.part": 0.5}
