"""Sums over the chosen tokens of all micro-batches of all updates, and the metrics computed from them."""

from __future__ import annotations

import math
import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from grpo_core.training.distributed.ranks import Ranks
from grpo_core.training.objective.objective import LossTerms
from grpo_core.training.objective.selected_groups import SelectedGroups
from grpo_core.training.stopwatch import Stopwatch
from grpo_core.training.utilization.flops import ModelCost
from grpo_core.types import Batch, Float64, Group, Packing, StepMetrics


@dataclass
class StepSums:
    """Sums over every token with a loss, before any mask; the metrics divide by their number.

    Of one update; then, after ``join``, of several. What is about the mismatch is of the first update only: it is about
    the policy at the start.
    """

    loss: float = 0.0
    kl: float = 0.0
    entropy: float = 0.0
    mismatch_kl: float = 0.0
    num_clipped_low: int = 0
    num_clipped_high: int = 0
    num_effective: int = 0
    num_tokens: int = 0
    num_mismatch_tokens: int = 0
    ratio_min: float = math.inf
    ratio_max: float = -math.inf
    mismatch_min: float = math.inf
    mismatch_max: float = -math.inf
    num_model_tokens: int = 0
    num_micro_batches: int = 0
    num_forward_passes: int = 0
    num_scoring_passes: int = 0
    grad_norm: float = 0.0
    num_updates: int = 0
    num_skipped_updates: int = 0
    nonfinite_trajectories: str = ""
    flops: float = 0.0

    def add(self, terms: LossTerms, *, num_model_tokens: int) -> None:
        """Add a micro-batch, with a single transfer from the device."""
        mismatch_kl = terms.mismatch.exp() - terms.mismatch - 1.0
        summed = (terms.kl, terms.entropy, mismatch_kl, terms.is_clipped_low, terms.is_clipped_high, terms.is_effective)
        dtype = terms.logprobs.dtype
        values = [terms.loss.detach(), *(item.to(dtype).sum() for item in summed)]
        values += [*terms.ratio.aminmax(), *terms.mismatch.aminmax()]
        loss, kl, entropy, mismatch, low, high, effective, *extremes = torch.stack(values).tolist()
        self.loss += loss
        self.kl += kl
        self.entropy += entropy
        self.mismatch_kl += mismatch
        self.num_clipped_low += round(low)
        self.num_clipped_high += round(high)
        self.num_effective += round(effective)
        self.num_tokens += len(terms.logprobs)
        self.num_mismatch_tokens += len(terms.logprobs)
        self.ratio_min, self.ratio_max = min(self.ratio_min, extremes[0]), max(self.ratio_max, extremes[1])
        self.mismatch_min = min(self.mismatch_min, extremes[2])
        self.mismatch_max = max(self.mismatch_max, extremes[3])
        self.num_model_tokens += num_model_tokens
        self.num_micro_batches += 1

    def add_up(self, ranks: Ranks) -> None:
        """Combine the sums of all processes. ``lowest`` is the only reduction for extremes: maxima go negated."""
        summed = (
            "loss", "kl", "entropy", "mismatch_kl", "num_clipped_low", "num_clipped_high", "num_effective",
            "num_tokens", "num_mismatch_tokens", "num_model_tokens", "num_micro_batches", "num_forward_passes",
            "num_scoring_passes", "flops",
        )  # fmt: skip
        values = vars(self)
        totals = ranks.total(np.array([float(values[name]) for name in summed]))
        for name, total in zip(summed, totals.tolist(), strict=True):
            values[name] = round(total) if name.startswith("num_") else total
        extremes = np.array([self.ratio_min, -self.ratio_max, self.mismatch_min, -self.mismatch_max])
        lowest = ranks.lowest(extremes).tolist()
        self.ratio_min, self.ratio_max = lowest[0], -lowest[1]
        self.mismatch_min, self.mismatch_max = lowest[2], -lowest[3]

    def join(self, later: StepSums) -> None:
        """Add a later update."""
        values = vars(self)
        for name, value in vars(later).items():
            if "mismatch" not in name and not name.endswith(("_min", "_max", "_trajectories")):
                values[name] += value
        self.ratio_min, self.ratio_max = min(self.ratio_min, later.ratio_min), max(self.ratio_max, later.ratio_max)
        found = (*self.nonfinite_trajectories.split("|"), *later.nonfinite_trajectories.split("|"))
        self.nonfinite_trajectories = "|".join(dict.fromkeys(filter(None, found)))


@dataclass(frozen=True, slots=True)
class StepFacts:
    """What a step's metrics say that its sums do not: its number, its settings, and what it used."""

    step: int
    learning_rate: float
    packing: Packing
    num_passes: int  # over the batch
    num_tries: int  # updates, those that were not made included
    num_tokenizer_calls: int
    peak_memory_bytes: int


def step_metrics(
    facts: StepFacts,
    batch: Batch,
    part: SelectedGroups,
    advantages: Float64,
    sums: StepSums,
    times: Stopwatch,
    cost: ModelCost,
) -> StepMetrics:
    """Of a step that trained on ``part`` of ``batch`` with ``advantages`` [B]. Without a token, ratios are 1, as on
    policy."""
    trajectories = [trajectory for group in batch.groups for trajectory in group.trajectories]
    rewards = [trajectory.reward for trajectory in trajectories]
    num_turns = sum(len(trajectory.turns) for trajectory in trajectories)
    num, num_mismatch = max(sums.num_tokens, 1), max(sums.num_mismatch_tokens, 1)
    ratio_min, ratio_max = (sums.ratio_min, sums.ratio_max) if sums.num_tokens else (1.0, 1.0)
    mismatch_min, mismatch_max = (sums.mismatch_min, sums.mismatch_max) if sums.num_mismatch_tokens else (0.0, 0.0)
    num_padded_tokens = facts.num_passes * sum(completion.num_tokens for completion in part.completions)
    return StepMetrics(
        step=facts.step,
        learning_rate=facts.learning_rate,
        loss=sums.loss / facts.num_tries,
        reward_mean=float(np.mean(rewards)),
        reward_std=float(np.std(rewards)),
        overlong_penalty_mean=float(np.mean([trajectory.overlong_penalty for trajectory in trajectories])),
        advantage_abs_mean=float(np.abs(advantages).sum() / num_turns),
        kl=sums.kl / num,
        entropy=sums.entropy / num,
        mismatch_kl=sums.mismatch_kl / num_mismatch,
        mismatch_ratio_min=_exp(mismatch_min),
        mismatch_ratio_max=_exp(mismatch_max),
        ratio_min=ratio_min,
        ratio_max=ratio_max,
        clip_fraction=(sums.num_clipped_low + sums.num_clipped_high) / num,
        clip_fraction_low=sums.num_clipped_low / num,
        clip_fraction_high=sums.num_clipped_high / num,
        grad_norm=sums.grad_norm / facts.num_tries,
        num_dropped_groups=part.num_dropped_groups,
        num_sequences=len(part.completions),
        num_loss_tokens=sums.num_tokens // facts.num_passes,
        num_effective_tokens=sums.num_effective // facts.num_passes,
        num_masked_tokens=(sums.num_tokens - sums.num_effective) // facts.num_passes,
        num_forced_tokens=sum(int((~item.completion_mask).sum()) for item in part.completions),
        num_dropped_tokens=_num_tokens(batch.groups) - _num_tokens(part.groups),
        packing=facts.packing,
        num_model_tokens=sums.num_model_tokens,
        num_padded_tokens=num_padded_tokens,
        num_forward_passes=sums.num_forward_passes,
        num_scoring_passes=sums.num_scoring_passes,
        num_micro_batches=sums.num_micro_batches,
        num_tokenizer_calls=facts.num_tokenizer_calls,
        num_updates=sums.num_updates,
        num_skipped_updates=sums.num_skipped_updates,
        is_skipped=sums.num_skipped_updates > 0 and sums.num_updates == 0,
        nonfinite_trajectories=sums.nonfinite_trajectories,
        layout_ms=times.total_ms("layout"),
        scoring_ms=times.total_ms("scoring"),
        loss_forward_ms=times.total_ms("loss_forward"),
        backward_ms=times.total_ms("backward") + times.total_ms("head_gradient"),
        gradient_sum_ms=times.total_ms("gradient_sum"),
        optimizer_ms=times.total_ms("optimizer"),
        sums_ms=times.total_ms("sums"),
        peak_memory_bytes=facts.peak_memory_bytes,
        flops=sums.flops,
        conventional_flops=cost.conventional_flops(num_padded_tokens),
    )


def _num_tokens(groups: Sequence[Group]) -> int:
    return sum(group.num_completion_tokens for group in groups)


def _exp(value: float) -> float:
    """``exp``, but inf on overflow, so that a step that overflowed still has metrics."""
    return math.exp(value) if value < 700 else math.inf


def reset_peak_memory(device: torch.device) -> None:
    """Start a new peak. On a CPU the peak is the process's own, which cannot be reset."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_bytes(device: torch.device) -> int:
    """Peak memory: on a GPU since the last reset, on a CPU of the process so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
