"""What any system samples and trains on, token by token: siblings, lengths, probabilities."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from pytest_grpo.systems.protocol import Completion, GrpoSystem, Rollout, TrainBatch, TrainStep
from pytest_grpo.systems.run_plan import RunPlan

from .versions import changed_weights

if TYPE_CHECKING:
    from torch import Tensor

    from grpo_core.types import Float32

    from .plain_policy import PlainPolicy

RARE_NATS = math.log(1e-6)
"""A completion with a lower log-probability is not sampled twice by chance."""


def sample(system: GrpoSystem, plan: RunPlan) -> Rollout:
    """The completions of ``plan``'s prompts."""
    prompts = [system.encode(prompt) for prompt in plan.prompts]
    return system.rollout(prompts, plan.group_size, plan.max_tokens, seed=plan.seed)


def sample_batch(system: GrpoSystem, plan: RunPlan) -> TrainBatch:
    """The same as a batch, with rewards that differ between siblings."""
    rewards = [[float(place) for place in range(plan.group_size)]] * len(plan.prompts)
    return TrainBatch.from_rollout([system.encode(prompt) for prompt in plan.prompts], sample(system, plan), rewards)


def num_identical_siblings(rollout: Rollout) -> int:
    """Completions that repeat one of the same prompt and are too improbable to do so by chance."""
    num = 0
    for group in rollout.completions:
        rare = [item.completion_ids.tobytes() for item in group if float(item.sampling_logprobs.sum()) < RARE_NATS]
        num += sum(count - 1 for count in Counter(rare).values())
    return num


def num_wrong_lengths(batch: TrainBatch, step: TrainStep, *, max_tokens: int, stop_id: int) -> int:
    """Completions that end where they may not, and those whose chosen tokens were not all trained on."""
    completions = batch.completions
    wrong = sum(not _is_whole(item, max_tokens, stop_id) for item in completions)
    wrong += abs(len(completions) - len(step.logprobs))
    for item, logprobs in zip(completions, step.logprobs, strict=False):
        wrong += len(logprobs) != len(item.completion_ids) or not np.all(logprobs[item.completion_mask] < 0)
    return wrong + (step.num_loss_tokens != batch.num_loss_tokens)


def _is_whole(completion: Completion, max_tokens: int, stop_id: int) -> bool:
    """Whether ``completion`` ends with its only stop token, or at ``max_tokens``."""
    ids: list[int] = completion.completion_ids.tolist()
    return bool(ids) and stop_id not in ids[:-1] and (ids[-1] == stop_id or len(ids) == max_tokens)


def ratio_error(system: GrpoSystem, plain: PlainPolicy, plan: RunPlan) -> float:
    """The largest distance from 1 of a probability ratio on policy: sampler to trainer, and sampler to ``plain``.

    The weights are some that change every answer. Infinite where a log-probability is missing or not finite.
    """
    weights = changed_weights(system.weights(), seed=1)
    system.load_weights(weights)
    system.swap_adapter(system.publish_adapter())
    batch = sample_batch(system, plan)
    step = system.train_step(batch)
    expected = _plain_logprobs(batch, plain, plain.merged(weights))
    if len(step.logprobs) != len(batch.completions):
        return math.inf
    errors = [
        _distance(completion, other)
        for others in (step.logprobs, expected)
        for completion, other in zip(batch.completions, others, strict=True)
    ]
    return max(errors)


def _plain_logprobs(batch: TrainBatch, plain: PlainPolicy, weights: Mapping[str, Tensor]) -> list[Float32]:
    return [
        plain.logprobs(group.prompt_ids, completion.completion_ids, weights)
        for group in batch.groups
        for completion in group.completions
    ]


def _distance(completion: Completion, logprobs: Float32) -> float:
    """From 1, of the ratios of the chosen tokens."""
    if len(logprobs) != len(completion.completion_ids):
        return math.inf
    differences = (logprobs - completion.sampling_logprobs)[completion.completion_mask]
    error = float(np.abs(np.expm1(differences)).max())
    return error if math.isfinite(error) else math.inf


def beyond(error: float, tolerance: float) -> float:
    """``error`` less what the system itself states that log-probabilities may differ by, in nats."""
    return max(0.0, error - math.expm1(tolerance))


def tolerance_note(tolerance: float) -> str:
    """Beside a value that ``beyond`` lowered."""
    return f"beyond {tolerance:g} nats, as the system states" if tolerance else ""
