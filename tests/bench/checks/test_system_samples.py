"""The checks of samples find nothing in grpo_core's, and what a system could get wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.checks.plain_policy import PlainPolicy
from bench.checks.system_samples import beyond, num_identical_siblings, num_wrong_lengths, ratio_error
from bench.checks.watched_run import plan_of
from grpo_core.types import Int32
from pytest_grpo.systems.grpo_core import GrpoCoreSystem
from pytest_grpo.systems.protocol import Completion, Rollout, SystemSettings, TrainBatch, TrainGroup, TrainStep

MAX_TOKENS = 8
STOP_ID = 0


@pytest.fixture
def settings(tmp_path: Path) -> SystemSettings:
    return SystemSettings(home=tmp_path, device="cpu")


def answer(*ids: int, nats: float = -9.0) -> Completion:
    num = len(ids)
    return Completion(np.array(ids, dtype=np.int32), np.ones(num, dtype=np.bool_), np.full(num, nats, dtype=np.float32))


def trained_on(*completions: Completion, num_loss_tokens: int | None = None) -> TrainStep:
    num = sum(int(item.completion_mask.sum()) for item in completions)
    logprobs = tuple(item.sampling_logprobs for item in completions)
    return TrainStep(0.0, 1.0, 1.0, 1.0, 1, 1, 0, num if num_loss_tokens is None else num_loss_tokens, logprobs)


def test_siblings_that_are_copies_are_counted() -> None:
    one, other = answer(3, 4), answer(3, 5)
    assert num_identical_siblings(Rollout(((one, other), (one, other)), 1.0)) == 0
    assert num_identical_siblings(Rollout(((one, one, one), (one, other)), 1.0)) == 2
    likely = answer(3, 4, nats=-1.0)
    assert num_identical_siblings(Rollout(((likely, likely),), 1.0)) == 0, "that is chance"


def wrong_lengths(*completions: Completion, step: TrainStep | None = None) -> int:
    group = TrainGroup(np.array([1], dtype=np.int32), completions, (0.0,) * len(completions))
    told = step or trained_on(*completions)
    return num_wrong_lengths(TrainBatch((group,)), told, max_tokens=MAX_TOKENS, stop_id=STOP_ID)


def test_a_completion_ends_with_its_stop_token_or_at_the_limit() -> None:
    whole = [answer(5, STOP_ID), answer(*range(1, MAX_TOKENS + 1))]
    assert wrong_lengths(*whole) == 0
    for cut in (answer(5, 6), answer(STOP_ID, 5, STOP_ID), answer(*range(1, MAX_TOKENS + 2))):
        assert wrong_lengths(cut) == 1
    assert wrong_lengths(answer()) == 1


def test_all_that_was_sampled_is_trained_on() -> None:
    one, other = answer(5, STOP_ID), answer(6, 7, STOP_ID)
    assert wrong_lengths(one, other, step=trained_on(one, other, num_loss_tokens=4)) == 1
    assert wrong_lengths(one, other, step=trained_on(one)) == 2
    left_out = replace(trained_on(one, other), logprobs=(one.sampling_logprobs, np.zeros(3, dtype=np.float32)))
    assert wrong_lengths(one, other, step=left_out) == 1
    not_finite = replace(trained_on(one, other), logprobs=(one.sampling_logprobs, np.full(3, np.nan, dtype=np.float32)))
    assert wrong_lengths(one, other, step=not_finite) == 1


class Wrong(GrpoCoreSystem):
    """``shift`` is added to what the sampler reports."""

    shift = 0.0

    def rollout(
        self,
        prompts: Sequence[Int32],
        group_size: int,
        max_tokens: int,
        *,
        seed: int,
        batch_size: int | None = None,
        greedy: bool = False,
    ) -> Rollout:
        sampled = super().rollout(prompts, group_size, max_tokens, seed=seed, batch_size=batch_size, greedy=greedy)
        groups = (
            tuple(replace(item, sampling_logprobs=item.sampling_logprobs + np.float32(self.shift)) for item in group)
            for group in sampled.completions
        )
        return replace(sampled, completions=tuple(groups))


class NeverTrained(GrpoCoreSystem):
    """Its trainer scores nothing."""

    def train_step(self, batch: TrainBatch, *, learning_rate: float = 0.0) -> TrainStep:
        step = super().train_step(batch, learning_rate=learning_rate)
        return replace(step, logprobs=tuple(values * np.float32("nan") for values in step.logprobs))


class Stale(GrpoCoreSystem):
    """Its sampler never takes up a version."""

    def swap_adapter(self, version: int, *, cached: bool = True):
        return super().swap_adapter(0, cached=cached)


@pytest.mark.slow
def test_the_ratio_is_one_for_grpo_core_only(settings: SystemSettings) -> None:
    plain = PlainPolicy(settings.model, scaling=settings.lora_alpha / settings.lora_rank)

    def error(system: GrpoCoreSystem) -> float:
        return ratio_error(system, plain, plan_of(group_size=2, max_tokens=6))

    assert error(GrpoCoreSystem(settings)) < 1e-3
    wrong = Wrong(replace(settings, home=settings.home / "wrong"))
    wrong.shift = 0.1
    assert error(wrong) == pytest.approx(1 - math.exp(-0.1), rel=0.01)
    assert math.isinf(error(NeverTrained(replace(settings, home=settings.home / "nan"))))
    assert error(Stale(replace(settings, home=settings.home / "stale"))) > 1e-2


def test_what_a_system_states_is_taken_off() -> None:
    assert beyond(0.01, 0.0) == 0.01
    assert beyond(0.01, 0.02) == 0.0
    assert beyond(0.05, 0.02) == pytest.approx(0.05 - math.expm1(0.02))
    assert math.isinf(beyond(math.inf, 0.02))
