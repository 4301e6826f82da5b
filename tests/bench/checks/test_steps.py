"""The exact checks of a step see what is planted in it, and nothing where nothing is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.checks.steps import NOT_FINITE, StepErrors, loss_distance, reference_step, step_errors
from bench.plain import plain_answers, plain_model
from bench.reference.adamw import AdamW, clipped
from bench.reference.loss import Answer, token_losses
from grpo_core.types import Float32, Int32
from pytest_grpo.systems.protocol import CLIP, MAX_GRAD_NORM, GrpoSystem, SystemSettings, TrainBatch, TrainStep

MODULES = [f"model.layers.{layer}.self_attn.v_proj" for layer in range(4)]
Change = Callable[["PlainSystem", TrainBatch], TrainBatch]


class PlainSystem(GrpoSystem):
    """The reference itself, in float64, as a system; with faults to plant."""

    name = "plain"

    def __init__(self, settings: SystemSettings) -> None:
        self._settings = settings
        self._weights: Mapping[str, Float32] = {}
        self._taken: Mapping[str, Float32] = {}
        self.optimizer = AdamW()
        self.change: Change = lambda system, batch: batch
        self.scale = 1.0
        self.takes_steps = True
        self.has_clip = True
        self.tell: Callable[[TrainStep], TrainStep] = lambda step: step
        self.load_weights(
            {f"{name}.lora_A.weight": np.zeros((16, 256), np.float32) for name in MODULES}
            | {f"{name}.lora_B.weight": np.zeros((128, 16), np.float32) for name in MODULES}
        )

    def encode(self, text: str) -> Int32:
        return np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int32)

    def load_weights(self, weights: Mapping[str, Float32]) -> None:
        self._plain = plain_model(self._settings, weights, torch.float64)

    def weights(self) -> Mapping[str, Float32]:
        return {name: weight.detach().numpy().copy() for name, weight in self._plain.adapter.items()}

    def gradients(self) -> Mapping[str, Float32]:
        return self._taken

    def train_step(self, batch: TrainBatch, *, learning_rate: float = 0.0) -> TrainStep:
        answers = plain_answers(self.change(self, batch), self._plain)
        before = self.weights()
        step = reference_step(self._plain, AdamW(), answers, self._settings.kl_coefficient)
        self.load_weights(before)
        factor = step.grad_norm / min(step.grad_norm, MAX_GRAD_NORM) * self.scale
        gradients = {name: gradient * factor for name, gradient in step.gradients.items()}
        gradients = clipped(gradients, MAX_GRAD_NORM) if self.has_clip else gradients
        if self.takes_steps:
            self.optimizer.step(self._plain.adapter, gradients, learning_rate)
        self._taken = {name: gradient.numpy() for name, gradient in gradients.items()}
        logprobs = tuple(row.numpy() for row in step.logprobs)
        return self.tell(TrainStep(step.loss, step.grad_norm, 1.0, 1.0, 1, 1, 0, batch.num_loss_tokens, logprobs))


def half_masked(system: PlainSystem, batch: TrainBatch) -> TrainBatch:
    """The second half of each completion has no loss."""
    groups = []
    for group in batch.groups:
        completions = []
        for completion in group.completions:
            length = len(completion.completion_ids)
            kept = completion.completion_mask & (np.arange(length) < (length + 1) // 2)
            completions.append(replace(completion, completion_mask=kept))
        groups.append(replace(group, completions=tuple(completions)))
    return TrainBatch(tuple(groups))


def errors(tmp_path: Path, **planted: object) -> StepErrors:
    settings = SystemSettings(home=tmp_path, device="cpu", kl_coefficient=0.01)
    system = PlainSystem(settings)
    for name, value in planted.items():
        setattr(system, name, value)
    return step_errors(system, settings)


def test_the_reference_has_no_error_against_itself(tmp_path: Path) -> None:
    found = errors(tmp_path)
    assert max(found.loss, found.gradient, found.weights) < 1e-9
    assert (found.num_lost_tokens, found.num_miscounted_tokens) == (0, 0)


def cancelling() -> tuple[list[Answer], list[Float32]]:
    """Two answers whose terms nearly cancel, and their log-probabilities as a model in single precision has them."""
    draw = np.random.default_rng(0)
    answers, told = [], []
    for advantage in (1.0, -1.0):
        logprobs = torch.from_numpy(draw.normal(-12.0, 1.0, 20))
        sampled = logprobs + torch.from_numpy(draw.normal(0.0, 0.01, 20))
        ids = torch.arange(20)
        answers.append(Answer(ids, ids, torch.ones(20, dtype=torch.bool), sampled, logprobs - 0.1, advantage))
        told.append((logprobs.numpy() + draw.normal(0.0, 3e-5, 20)).astype(np.float32))
    return answers, told


def test_a_loss_that_nearly_cancels_is_not_red_for_the_rounding_of_its_log_probabilities() -> None:
    answers, told = cancelling()
    losses = [
        token_losses(torch.from_numpy(row), answer, clip=CLIP, kl_coefficient=0.01)
        for row, answer in zip(told, answers, strict=True)
    ]
    loss = float(torch.cat(losses).float().mean())
    exact = [
        token_losses(answer.ref_logprobs + 0.1, answer, clip=CLIP, kl_coefficient=0.01).mean() for answer in answers
    ]
    assert abs(loss - float(sum(exact)) / 2) / abs(loss) > 1e-4  # by the rounding of the log-probabilities alone

    step = TrainStep(loss, 1.0, 1.0, 1.0, 1, 1, 0, 40, tuple(told))
    assert loss_distance(step, answers, 0.01) < 1e-5
    assert loss_distance(step, answers, 0.011) > 1e-3
    assert loss_distance(replace(step, logprobs=tuple(told[:1])), answers, 0.01) == np.inf


def test_a_skipped_update_is_seen_in_the_weights(tmp_path: Path) -> None:
    assert errors(tmp_path, takes_steps=False).weights == pytest.approx(1.0)


def test_a_tenfold_gradient_is_seen_though_adam_hides_it(tmp_path: Path) -> None:
    assert errors(tmp_path, scale=10.0).gradient > 0.1


def test_a_missing_clip_is_seen(tmp_path: Path) -> None:
    assert errors(tmp_path, has_clip=False).gradient > 0.1


def test_tokens_without_a_loss_are_counted(tmp_path: Path) -> None:
    found = errors(tmp_path, change=half_masked)
    lengths = (5, 9, 1, 4, 7, 3, 6, 24, 2)
    assert found.num_lost_tokens == sum(length // 2 for length in lengths)


@pytest.mark.slow
def test_what_is_not_finite_is_an_error(tmp_path: Path) -> None:
    assert errors(tmp_path, tell=lambda step: replace(step, loss=float("nan"))).loss == NOT_FINITE
    assert errors(tmp_path, tell=lambda step: replace(step, grad_norm=float("inf"))).gradient == NOT_FINITE


@pytest.mark.parametrize(
    ("tell", "error"),
    [
        pytest.param(lambda rows: (rows[0] * np.nan, *rows[1:]), NOT_FINITE, marks=pytest.mark.slow),
        pytest.param(lambda rows: rows[:-1], NOT_FINITE, marks=pytest.mark.slow),
        pytest.param(lambda rows: (rows[0][:-1], *rows[1:]), NOT_FINITE, marks=pytest.mark.slow),
        # they differ in length
        pytest.param(lambda rows: (rows[1], rows[0], *rows[2:]), NOT_FINITE, marks=pytest.mark.slow),
        # twice the log-probabilities of a first step, whose ratio is 1 but for the rounding of float32
        (lambda rows: tuple(2 * row for row in rows), pytest.approx(1.0, rel=1e-4)),
    ],
)
def test_wrong_log_probabilities_are_an_error_of_the_loss(tmp_path: Path, tell: Any, error: Any) -> None:
    assert errors(tmp_path, tell=lambda step: replace(step, logprobs=tell(step.logprobs))).loss == error


@pytest.mark.slow
def test_log_probabilities_of_tokens_that_were_not_chosen_may_be_anything(tmp_path: Path) -> None:
    def tell(step: TrainStep) -> TrainStep:
        chosen = [completion.completion_mask for completion in batches[-1].completions]
        rows = (np.where(mask, row, 0.0) for row, mask in zip(step.logprobs, chosen, strict=True))
        return replace(step, logprobs=tuple(rows))

    batches: list[TrainBatch] = []

    def see(system: PlainSystem, batch: TrainBatch) -> TrainBatch:
        batches.append(batch)
        return batch

    assert errors(tmp_path, change=see, tell=tell).loss < 1e-9


def test_a_wrong_count_of_tokens_with_a_loss_is_seen(tmp_path: Path) -> None:
    found = errors(tmp_path, tell=lambda step: replace(step, num_loss_tokens=step.num_loss_tokens + 3))
    assert found.num_miscounted_tokens == 2 * 3  # in two steps


@pytest.mark.parametrize(
    "optimizer",
    [
        AdamW(weight_decay=0.01),
        pytest.param(AdamW(beta_2=0.99), marks=pytest.mark.slow),
        pytest.param(AdamW(epsilon=1e-6), marks=pytest.mark.slow),
    ],
)
def test_another_optimizer_is_seen(tmp_path: Path, optimizer: AdamW) -> None:
    assert errors(tmp_path, optimizer=optimizer).weights > 4e-4
