"""Steps of random completions, and the objective's value and gradients on given log-probabilities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from grpo_core.types import Completion, Float64, Group, Trajectory

if TYPE_CHECKING:
    from torch import Tensor

    from grpo_core.training.objective.objective import LossTerms
    from grpo_core.training.objective.selected_groups import SelectedGroups
    from grpo_core.training.objective.token_table import TokenLogprobs

MakeStep = Callable[..., "Step"]


@dataclass(frozen=True)
class Step:
    """Everything that an objective is made of and asked about. Columns [C], completion after completion."""

    part: SelectedGroups
    known: TokenLogprobs
    logprobs: Float64
    entropy: Float64

    @property
    def lengths(self) -> list[int]:
        return [int(turn.completion_mask.sum()) for turn in self.part.completions]

    def evaluate(self, splits: list[list[int]] | None = None, **config: object) -> Evaluated:
        """The objective of the config's ``training`` values, micro-batch by micro-batch."""
        import torch

        from grpo_core.config import TrainingConfig
        from grpo_core.training.forward.packing import TokenScores, build_packed_batch, pack_completions
        from grpo_core.training.objective.objective import Objective, sequence_advantages

        training = TrainingConfig.model_validate({"kl_coefficient": 0.0, **config})
        advantages = sequence_advantages(self.part, self.known, training)
        objective = Objective(self.part, self.known, advantages, training)
        completions = self.part.completions
        logprobs = torch.tensor(self.logprobs, requires_grad=True)
        entropy = torch.tensor(self.entropy, requires_grad=True)
        bounds = np.concatenate([[0], np.cumsum(self.lengths)])
        terms = []
        packs = pack_completions(completions, "packed")
        for members in splits or [list(range(len(packs)))]:
            batch = build_packed_batch(
                [packs[member] for member in members], completions, "packed", torch.device("cpu")
            )
            where = np.concatenate([np.arange(bounds[member], bounds[member + 1]) for member in batch.order])
            terms.append(objective.terms(batch, TokenScores(logprobs[where], entropy[where])))
        loss = torch.stack([item.loss for item in terms]).sum()
        gradients = torch.autograd.grad(loss, [logprobs, entropy], allow_unused=True, materialize_grads=True)
        return Evaluated(loss.item(), gradients[0], gradients[1], terms, advantages)


@dataclass(frozen=True)
class Evaluated:
    loss: float
    gradient: Tensor  # [C], to the log-probabilities
    entropy_gradient: Tensor  # [C]
    terms: list[LossTerms]  # per micro-batch
    advantages: Float64  # [B]


@pytest.fixture(scope="session")
def make_step() -> MakeStep:
    return _make_step


def _make_step(
    seed: int = 0,
    *,
    rewards: tuple[tuple[float, ...], ...] = ((1.0, 0.0, 0.0), (0.5, -1.0), (0.0, 3.0, 1.0)),
    num_turns: int = 1,
    max_tokens: int = 7,
    recomputed: bool = False,
    off_policy: float = 0.4,
    overlong: tuple[int, ...] = (),
) -> Step:
    """One group per row of ``rewards``; the trajectories in ``overlong`` end with their length.

    ``off_policy`` is the spread of the log-ratios.
    """
    from grpo_core.training.objective.selected_groups import SelectedGroups
    from grpo_core.training.objective.token_table import TokenLogprobs

    rng = np.random.default_rng(seed)
    groups, number = [], 0
    for index, row in enumerate(rewards):
        trajectories = []
        for reward in row:
            turns = [_completion(rng, int(rng.integers(2, max_tokens + 1))) for _ in range(num_turns)]
            if number in overlong:
                turns[-1] = replace(turns[-1], finish_reason="length")
            trajectories.append(Trajectory(str(index), "solver", tuple(turns), reward))
            number += 1
        groups.append(Group(str(index), tuple(trajectories)))
    part = SelectedGroups(tuple(groups), 0)
    sampling = np.concatenate([turn.sampling_logprobs[turn.completion_mask] for turn in part.completions])
    sampling = sampling.astype(np.float64)
    size = len(sampling)
    entropy = rng.random(size) * 3
    old = sampling + rng.normal(size=size) * off_policy if recomputed else sampling
    known = TokenLogprobs(sampling, old, sampling + rng.normal(size=size) * 0.3, entropy if recomputed else None)
    return Step(part, known, old + rng.normal(size=size) * off_policy, entropy)


def _completion(rng: np.random.Generator, num: int) -> Completion:
    mask = rng.random(num) < 0.8
    mask[int(rng.integers(num))] = True
    return Completion(
        prompt_ids=rng.integers(1, 300, 3, dtype=np.int32),
        completion_ids=rng.integers(1, 300, num, dtype=np.int32),
        completion_mask=mask,
        sampling_logprobs=(-rng.random(num) * 2 * mask).astype(np.float32),
        policy_version=0,
        temperature=1.0,
        finish_reason="stop",
    )
