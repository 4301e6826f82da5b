"""Exact checks of a training step, from tensors: nothing here reads the trainer's own counters.

A step is held against ``bench.reference``, in float64: its loss, its gradient, its update, and how much each token
counts in its gradient.

Legend: C chosen tokens, W weights of the last layer's adapter.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from pytest_grpo.systems.protocol import (
    CLIP,
    MAX_GRAD_NORM,
    Completion,
    GrpoSystem,
    SystemSettings,
    TrainBatch,
    TrainGroup,
    TrainStep,
)

from ..plain import is_written_out, plain_answers, plain_model, vocab_size
from ..reference.adamw import AdamW
from ..reference.loss import Answer, token_logprobs, token_losses
from ..reference.model import Model
from ..reference.step import Step, train_step
from .any_model import load_any

if TYPE_CHECKING:
    from grpo_core.types import Float32, Int32

LEARNING_RATE = 5e-4
SPREADS = {"lora_A": 0.5, "lora_B": 0.005}
"""Standard deviations of the adapter's weights: far from zero, where A has no gradient; A so large that a weight decay
of 0.01 shows."""
OTHER_SPREAD = 0.05
"""Of weights that are no adapter, relative to their own spread."""
STOP_ID = 0
MIN_TOKEN_SHARE = 0.5
MAX_JACOBIAN_WEIGHTS = 1 << 20
LAYER = re.compile(r"\.(\d+)\.")
SUM_ROUNDING = 2**-22
"""Of the mean size of the terms of a sum: a few last bits in single precision."""
NOT_FINITE = 1e9
"""The error of a step whose loss or gradient is not finite."""


@dataclass(frozen=True, slots=True)
class StepErrors:
    """What a system's steps differ by from the reference's, relative to it; the largest of all steps."""

    loss: float  # of the loss, and of the log-probabilities that it is made of
    gradient: float
    weights: float  # of the change of all weights in all steps
    num_lost_tokens: int
    num_miscounted_tokens: int  # by how many the system's own count of tokens with a loss is off


def random_adapter(system: GrpoSystem, seed: int = 0) -> dict[str, Float32]:
    """Adapter weights in which every weight has a gradient."""
    draw = np.random.default_rng(seed)

    def changed(name: str, values: Float32) -> Float32:
        spread = SPREADS.get(name.split(".")[-2])
        if spread is not None:
            return draw.normal(0.0, spread, values.shape).astype(np.float32)
        return (values + draw.normal(0.0, OTHER_SPREAD * float(values.std()), values.shape)).astype(np.float32)

    return {name: changed(name, values) for name, values in sorted(system.weights().items())}


def step_errors(system: GrpoSystem, settings: SystemSettings) -> StepErrors:
    """Two steps of ``system``, just built from ``settings``, against two of the reference.

    The first batch has a gradient to be clipped and a loss for every token. In the second the gradient is small, some
    ratios are clipped, some tokens were not chosen, and one group's rewards are equal.
    """
    system.load_weights(random_adapter(system))
    before = system.weights()
    plain, optimizer = exact_model(settings, before), AdamW()
    num_ids = vocab_size(settings.model)
    batches = [first_batch(system, plain, num_ids), second_batch(system, plain, num_ids)]
    losses, gradients, num_lost, num_miscounted = [], [], 0, 0
    for batch in batches:
        answers = plain_answers(batch, plain)
        jacobian = token_jacobian(plain, answers) if batch is batches[0] else None
        expected = reference_step(plain, optimizer, answers, settings.kl_coefficient)
        step = system.train_step(batch, learning_rate=LEARNING_RATE)
        taken = system.gradients()
        losses.append(_finite(loss_distance(step, answers, settings.kl_coefficient)))
        losses.append(_finite(logprob_distance(step.logprobs, expected.logprobs, answers)))
        num_miscounted += abs(step.num_loss_tokens - batch.num_loss_tokens)
        gradients.append(_finite(abs(step.grad_norm - expected.grad_norm) / expected.grad_norm))
        gradients.append(_finite(distance(taken, expected.gradients)))
        if jacobian is not None:
            num_lost = num_tokens_without_loss(jacobian, taken)
    after, wanted = system.weights(), plain.adapter
    moved = {name: after[name] - before[name] for name in before}
    should_move = {name: wanted[name].detach() - torch.from_numpy(before[name]).to(wanted[name]) for name in before}
    weights_error = _finite(distance(moved, should_move))
    return StepErrors(max(losses), max(gradients), weights_error, num_lost, num_miscounted)


def _finite(error: float) -> float:
    """Before any maximum is taken: a comparison with NaN is false."""
    return error if math.isfinite(error) else NOT_FINITE


def reference_step(plain: Model, optimizer: AdamW, answers: list[Answer], kl_coefficient: float) -> Step:
    """A step of the reference, one sequence at a time."""
    return train_step(
        plain,
        optimizer,
        answers,
        learning_rate=LEARNING_RATE,
        clip=CLIP,
        kl_coefficient=kl_coefficient,
        max_grad_norm=MAX_GRAD_NORM,
        rows_per_pass=1,
    )


def loss_distance(step: TrainStep, answers: Sequence[Answer], kl_coefficient: float) -> float:
    """How far the loss of ``step`` is from the reference's of the same log-probabilities, relative to that. Infinite
    where there is not one log-probability per token.

    The log-probabilities themselves are held against the reference's by ``logprob_distance``. Their rounding must not
    count here: positive and negative terms nearly cancel, so a last bit of theirs may be a thousandth of the loss. What
    single precision loses in the sum of the terms does not count either.
    """
    if [np.shape(row) for row in step.logprobs] != [tuple(answer.ids.shape) for answer in answers]:
        return math.inf
    terms = []
    for told, answer in zip(step.logprobs, answers, strict=True):
        logprobs = torch.as_tensor(np.asarray(told)).to(answer.ref_logprobs)
        terms.append(token_losses(logprobs, answer, clip=CLIP, kl_coefficient=kl_coefficient))
    losses = torch.cat(terms)
    expected, lost = float(losses.mean()), SUM_ROUNDING * float(losses.abs().mean())
    return max(abs(step.loss - expected) - lost, 0.0) / abs(expected)


def logprob_distance(told: Sequence[Float32], expected: Sequence[Tensor], answers: Sequence[Answer]) -> float:
    """The Euclidean norm of the difference over that of ``expected``, of all chosen tokens. Infinite where there is not
    one value per token."""
    if [np.shape(row) for row in told] != [tuple(row.shape) for row in expected]:
        return math.inf
    values, wanted = (
        np.concatenate(
            [np.asarray(row)[answer.is_chosen.cpu().numpy()] for row, answer in zip(rows, answers, strict=True)]
        )
        for rows in (told, [row.double().cpu().numpy() for row in expected])
    )
    return float(np.linalg.norm(values - wanted) / np.linalg.norm(wanted))


def distance(values: Mapping[str, Any], expected: Mapping[str, Tensor]) -> float:
    """The Euclidean norm of the difference over that of ``expected``; a missing name counts as zeros."""
    difference = size = 0.0
    for name, wanted in expected.items():
        target = wanted.detach().double().cpu().numpy()
        difference += float(np.square(np.asarray(values.get(name, 0.0), dtype=np.float64) - target).sum())
        size += float(np.square(target).sum())
    return (difference / size) ** 0.5


def first_batch(system: GrpoSystem, plain: Model, num_ids: int) -> TrainBatch:
    """Every token counts: ratios stay within the clip, and no advantage is zero."""
    groups = [
        random_group(system.encode(prompt), plain, num_ids, seed, lengths, rewards, spread=0.05)
        for seed, (prompt, lengths, rewards) in enumerate(
            [
                ("Q: 3 + 4 =\nA: ", (5, 9, 1), (1.0, 0.0, 0.3)),
                ("Orders: ", (4, 7, 3, 6), (2.0, -1.0, 0.0, 0.5)),
                ("A PAR", (24, 2), (0.0, 1.0)),
            ]
        )
    ]
    return TrainBatch(tuple(groups))


def second_batch(system: GrpoSystem, plain: Model, num_ids: int) -> TrainBatch:
    """Clipped ratios, tokens that the policy did not choose, and a group whose rewards are equal."""
    groups = [
        random_group(system.encode(prompt), plain, num_ids, seed, lengths, rewards, spread=0.3, chosen_share=0.7)
        for seed, (prompt, lengths, rewards) in enumerate(
            [("Q: 12 + 30 =\nA: ", (6, 3), (2e-5, 0.0)), ("Fleet", (8, 16, 8), (0.5, 0.5, 0.5))], start=10
        )
    ]
    return TrainBatch(tuple(groups))


def random_group(
    prompt_ids: Int32,
    plain: Model,
    num_ids: int,
    seed: int,
    lengths: tuple[int, ...],
    rewards: tuple[float, ...],
    *,
    spread: float,
    chosen_share: float = 1.0,
) -> TrainGroup:
    """Random tokens, each with a stop at its end. The sampler's log-probabilities are the policy's, plus noise of
    ``spread`` nats; the reference's are the base model's."""
    draw = np.random.default_rng(seed)
    bare = []
    for length in lengths:
        ids = draw.integers(1, num_ids, length).astype(np.int32)
        ids[-1] = STOP_ID
        is_chosen = draw.random(length) < chosen_share
        is_chosen[[0, -1]] = True
        bare.append(Completion(ids, is_chosen, np.zeros(length, dtype=np.float32)))
    answers = plain_answers(TrainBatch((TrainGroup(prompt_ids, tuple(bare), rewards),)), plain)
    with torch.no_grad():
        policy, base = (token_logprobs(model, answers) for model in (plain, replace(plain, adapter={})))
    completions = [
        replace(
            completion,
            sampling_logprobs=(mine.cpu().numpy() + draw.normal(0.0, spread, len(mine))).astype(np.float32),
            ref_logprobs=its.cpu().numpy().astype(np.float32),
        )
        for completion, mine, its in zip(bare, policy, base, strict=True)
    ]
    return TrainGroup(prompt_ids, tuple(completions), rewards)


def exact_model(settings: SystemSettings, weights: Mapping[str, Float32]) -> Model:
    """The model of ``settings`` in float64: the presets as they are written out here, others by ``transformers``."""
    if settings.method == "lora" and is_written_out(settings.model):
        return plain_model(settings, weights, torch.float64)
    return cast("Model", load_any(settings, weights, torch.float64))  # it has all that a step needs of one


@dataclass(frozen=True, slots=True)
class TokenJacobian:
    """Per chosen token the gradient of its log-probability [C, W], and the weight [C] that the loss gives it."""

    names: list[str]
    gradients: Tensor
    weights: Tensor


def token_jacobian(plain: Model, answers: list[Answer]) -> TokenJacobian:
    """Of the adapter of the last layer: any part of the weights tells tokens apart."""
    names = last_layer(plain.adapter)
    rows, weights = [], []
    num_tokens = sum(int(answer.is_chosen.sum()) for answer in answers)
    for answer in answers:
        (logprobs,) = token_logprobs(plain, [answer])
        counted = logprobs.detach().requires_grad_()
        losses = token_losses(counted, answer, clip=CLIP, kl_coefficient=0.0)
        (by_token,) = torch.autograd.grad(losses.sum() / num_tokens, [counted])
        weights.append(by_token[answer.is_chosen])
        for logprob in logprobs[answer.is_chosen]:
            found = torch.autograd.grad(logprob, [plain.adapter[name] for name in names], retain_graph=True)
            rows.append(torch.cat([gradient.flatten() for gradient in found]))
    return TokenJacobian(names, torch.stack(rows), torch.cat(weights))


def last_layer(adapter: Mapping[str, Tensor]) -> list[str]:
    """The names of the last layer's weights; of all of them, the smallest ones that are enough to tell tokens apart."""
    layers = {name: int(found.group(1)) for name in adapter if (found := LAYER.search(name))}
    last = max(layers.values())
    names = sorted(name for name, layer in layers.items() if layer == last)
    kept: list[str] = []
    for name in sorted(names, key=lambda name: adapter[name].numel()):
        if sum(adapter[each].numel() for each in [*kept, name]) <= MAX_JACOBIAN_WEIGHTS or not kept:
            kept.append(name)
    return sorted(kept)


def num_tokens_without_loss(jacobian: TokenJacobian, gradient: Mapping[str, Float32]) -> int:
    """The gradient is a sum over the tokens, each times its weight: solve for the weights [C], and count the tokens
    whose weight is less than half of what it should be, relative to the others' (so whatever the loss is scaled by)."""
    flat = np.concatenate([np.asarray(gradient[name]).ravel() for name in jacobian.names])
    target = torch.from_numpy(flat).to(jacobian.gradients)
    gram = jacobian.gradients @ jacobian.gradients.T
    found = torch.linalg.solve(gram, jacobian.gradients @ target) / jacobian.weights
    scale = float(found.quantile(0.9))
    return int((found < MIN_TOKEN_SHARE * scale).sum()) if scale > 0 else len(found)
