"""What a step optimises: built once per step from what is known before it, then asked for each micro-batch's share.

    loss = sum over tokens of  w * m * policy term  +  kl_coefficient * u * KL  -  entropy_coefficient * v * entropy

with m the correction of the sampler's mismatch. The weights w, u and v [C] hold the normalisation and the masks. They
are made of totals of the whole step, so the gradient does not depend on how the step is split.

Legend: B sequences, C chosen tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from grpo_core.config import TrainingConfig
from grpo_core.training.advantages import group_advantages
from grpo_core.training.forward.packing import PackedBatch, TokenScores
from grpo_core.training.objective.cispo import cispo_loss
from grpo_core.training.objective.clipped import clipped_surrogate
from grpo_core.training.objective.kl import KL_ESTIMATORS, bias_corrected, k3
from grpo_core.training.objective.known import KnownLogprobs, KnownTable, KnownTokens, num_chosen
from grpo_core.training.objective.mismatch import masked_weights, truncated_weights
from grpo_core.training.objective.normalisation import (
    Lengths,
    constant_length_weights,
    sequence_mean_weights,
    token_mean_weights,
)
from grpo_core.training.objective.penalty import kl_penalised_groups, overlong_penalised_groups
from grpo_core.training.objective.policy_term import PolicyTerm
from grpo_core.training.objective.sapo import sapo_loss
from grpo_core.training.objective.sequence import sequence_means, sequence_sums
from grpo_core.training.objective.top_entropy import top_entropy_mask
from grpo_core.training.objective.trained_part import TrainedPart, overlong_sequences
from grpo_core.types import Float64


@dataclass(frozen=True, slots=True)
class LossTerms:
    """A micro-batch's share of the loss, a scalar with its gradient, and per token [C], without, what was measured.

    Nothing is masked in the measurements: they are of all chosen tokens that went through the model.
    """

    loss: Tensor
    logprobs: Tensor
    entropy: Tensor
    ratio: Tensor  # of the loss: per sequence for gspo
    mismatch: Tensor  # log-ratio of the trainer's policy before the update to the sampler's
    kl: Tensor  # k3 to the reference; 0 without a KL term
    is_clipped_low: Tensor
    is_clipped_high: Tensor
    is_effective: Tensor  # bool, no mask took it out of the policy term


class Objective:
    """``advantages`` [B] are those of the trajectory that each sequence is of."""

    def __init__(self, part: TrainedPart, known: KnownLogprobs, config: TrainingConfig) -> None:
        completions = part.completions
        lengths = num_chosen(completions)
        self.advantages = sequence_advantages(part, known, config)
        is_left_out = overlong_sequences(part) if config.mask_overlong else np.zeros(len(lengths), dtype=np.bool_)
        is_counted = np.repeat(~is_left_out, lengths)
        is_selected = is_counted
        if config.top_entropy_share < 1:
            assert known.entropy is not None, "checked by the configuration"
            is_selected = top_entropy_mask(known.entropy, is_counted, config.top_entropy_share)
        weights = np.repeat(_normalisation(config, np.where(is_left_out, 0, lengths)), lengths)
        self._config = config
        self._is_recomputed = known.is_recomputed
        self._table = KnownTable(
            completions,
            np.repeat(self.advantages, lengths),
            weights * is_selected,
            weights * is_counted,
            is_selected / max(int(is_selected.sum()), 1),
            known.sampling,
            known.old,
            known.reference if known.reference is not None else np.zeros_like(known.old),
        )

    def terms(self, batch: PackedBatch, scores: TokenScores) -> LossTerms:
        """Of one micro-batch, from the scores of its forward pass."""
        config, logprobs = self._config, scores.logprobs
        known = self._table.tokens(batch.order, logprobs)
        log_ratio = logprobs - known.old_logprobs
        ratio = (sequence_means(log_ratio, known.sequences) if config.loss == "gspo" else log_ratio).exp()
        policy = _policy_term(config, logprobs, ratio, known.advantages)
        before = known.old_logprobs if self._is_recomputed else logprobs.detach()
        mismatch = before - known.sampling_logprobs
        correction = self._correction(mismatch, known)
        loss = (known.policy_weights * correction * policy.loss).sum()
        kl = torch.zeros_like(mismatch)
        if config.kl_coefficient > 0:
            kl = k3(logprobs.detach(), known.ref_logprobs)
            if config.kl_in == "loss":
                estimate = KL_ESTIMATORS[config.kl_estimator](logprobs, known.ref_logprobs)
                if config.kl_bias_correction:
                    estimate = bias_corrected(estimate, log_ratio)  # the token's own ratio, in gspo too
                loss = loss + config.kl_coefficient * (known.kl_weights * estimate).sum()
        if config.entropy_coefficient > 0:
            loss = loss - config.entropy_coefficient * (known.entropy_weights * scores.entropy).sum()
        return LossTerms(
            loss=loss,
            logprobs=logprobs.detach(),
            entropy=scores.entropy.detach(),
            ratio=ratio.detach(),
            mismatch=mismatch,
            kl=kl,
            is_clipped_low=policy.is_clipped_low,
            is_clipped_high=policy.is_clipped_high,
            is_effective=(known.policy_weights > 0) & (correction > 0),
        )

    def _correction(self, mismatch: Tensor, known: KnownTokens) -> Tensor:
        """The weight [C] of the policy term. A mask is 0 or 1 where the ratio of the loss is to the sampler already."""
        config = self._config
        if config.mismatch_correction == "none":
            return torch.ones_like(mismatch)
        level, _, how = config.mismatch_correction.partition("_")
        ratio = (sequence_sums(mismatch, known.sequences) if level == "sequence" else mismatch).exp()
        if how == "truncate":
            return truncated_weights(ratio, config.mismatch_high)
        weights = masked_weights(ratio, config.mismatch_low, config.mismatch_high)
        return weights if self._is_recomputed else (weights > 0).to(weights.dtype)


def _policy_term(config: TrainingConfig, logprobs: Tensor, ratio: Tensor, advantages: Tensor) -> PolicyTerm:
    match config.loss:
        case "cispo":
            return cispo_loss(logprobs, ratio, advantages, clip_high=config.clip_high)
        case "sapo":
            return sapo_loss(
                ratio,
                advantages,
                temperature_positive=config.sapo_temperature_positive,
                temperature_negative=config.sapo_temperature_negative,
            )
        case _:
            return clipped_surrogate(
                ratio,
                advantages,
                clip_low=config.clip_low,
                clip_high=config.clip_high,
                clip_dual=config.clip_dual,
            )


def _normalisation(config: TrainingConfig, lengths: Lengths) -> Float64:
    match config.loss:
        case "grpo" | "gspo" | "sapo":
            return sequence_mean_weights(lengths)
        case "dr_grpo":
            assert config.loss_length_tokens is not None, "checked by the configuration"
            return constant_length_weights(lengths, config.loss_length_tokens)
        case _:
            return token_mean_weights(lengths)


def sequence_advantages(part: TrainedPart, known: KnownLogprobs, config: TrainingConfig) -> Float64:
    """[B]: the advantage of the trajectory that each sequence is of."""
    groups = overlong_penalised_groups(part.groups)
    if config.kl_in == "reward" and known.reference is not None:
        kl = KL_ESTIMATORS[config.kl_estimator](torch.from_numpy(known.old), torch.from_numpy(known.reference))
        groups = kl_penalised_groups(groups, kl.numpy(), config.kl_coefficient)
    advantages = [value for group in group_advantages(groups, config.advantages) for value in group.tolist()]
    return np.repeat(np.array(advantages, dtype=np.float64), part.num_turns)
