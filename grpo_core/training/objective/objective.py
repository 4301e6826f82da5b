"""What an update optimises: built from what is known before the step, then asked for each micro-batch's share.

    loss = sum over tokens of  w * m * policy term  +  kl_coefficient * u * KL  -  entropy_coefficient * v * entropy

with m the correction of the sampler's mismatch. The weights w, u and v [C] hold the normalisation and the masks. They
are made of totals of the whole update, so the gradient does not depend on how it is split into micro-batches.

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
from grpo_core.training.objective.kl import KL_ESTIMATORS, bias_corrected, k3
from grpo_core.training.objective.penalty import kl_penalised_groups, overlong_penalised_groups
from grpo_core.training.objective.policy_losses import PolicyTerm, cispo_loss, clipped_surrogate, sapo_loss
from grpo_core.training.objective.selected_groups import SelectedGroups, overlong_sequences
from grpo_core.training.objective.token_table import TokenColumns, TokenLogprobs, TokenTable, num_chosen
from grpo_core.training.objective.token_weights import (
    Lengths,
    constant_length_weights,
    masked_weights,
    sequence_mean_weights,
    sequence_means,
    sequence_sums,
    token_mean_weights,
    top_entropy_mask,
    truncated_weights,
)
from grpo_core.types import Float64


@dataclass(frozen=True, slots=True)
class LossTerms:
    """The loss of one micro-batch, a scalar with its gradient, and measurements per token [C] without one.

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
    """``advantages`` [B] are those of the trajectory that each sequence is of (``sequence_advantages``)."""

    def __init__(
        self, part: SelectedGroups, logprobs: TokenLogprobs, advantages: Float64, config: TrainingConfig
    ) -> None:
        completions = part.completions
        lengths = num_chosen(completions)
        is_left_out = overlong_sequences(part) if config.mask_overlong else np.zeros(len(lengths), dtype=np.bool_)
        is_counted = np.repeat(~is_left_out, lengths)
        is_selected = is_counted
        if config.top_entropy_share < 1:
            assert logprobs.entropy is not None, "checked by the configuration"
            is_selected = top_entropy_mask(logprobs.entropy, is_counted, config.top_entropy_share)
        weights = np.repeat(_normalisation(config, np.where(is_left_out, 0, lengths)), lengths)
        self._config = config
        self._is_recomputed = logprobs.is_recomputed
        self._table = TokenTable(
            completions,
            np.repeat(advantages, lengths),
            weights * is_selected,
            weights * is_counted,
            is_selected / max(int(is_selected.sum()), 1),
            logprobs.sampling,
            logprobs.old,
            logprobs.reference if logprobs.reference is not None else np.zeros_like(logprobs.old),
        )

    def terms(self, batch: PackedBatch, scores: TokenScores) -> LossTerms:
        """The loss terms of one micro-batch, from the scores of its forward pass."""
        config, logprobs = self._config, scores.logprobs
        tokens = self._table.tokens(batch.order, logprobs)
        log_ratio = logprobs - tokens.old_logprobs
        ratio = (sequence_means(log_ratio, tokens.sequences) if config.loss == "gspo" else log_ratio).exp()
        policy = _policy_term(config, logprobs, ratio, tokens.advantages)
        before = tokens.old_logprobs if self._is_recomputed else logprobs.detach()
        mismatch = before - tokens.sampling_logprobs
        correction = self._correction(mismatch, tokens)
        loss = (tokens.policy_weights * correction * policy.loss).sum()
        kl = torch.zeros_like(mismatch)
        if config.kl_coefficient > 0:
            kl = k3(logprobs.detach(), tokens.ref_logprobs)
            if config.kl_in == "loss":
                estimate = KL_ESTIMATORS[config.kl_estimator](logprobs, tokens.ref_logprobs)
                if config.kl_bias_correction:
                    estimate = bias_corrected(estimate, log_ratio)  # the token's own ratio, in gspo too
                loss = loss + config.kl_coefficient * (tokens.kl_weights * estimate).sum()
        if config.entropy_coefficient > 0:
            loss = loss - config.entropy_coefficient * (tokens.entropy_weights * scores.entropy).sum()
        return LossTerms(
            loss=loss,
            logprobs=logprobs.detach(),
            entropy=scores.entropy.detach(),
            ratio=ratio.detach(),
            mismatch=mismatch,
            kl=kl,
            is_clipped_low=policy.is_clipped_low,
            is_clipped_high=policy.is_clipped_high,
            is_effective=(tokens.policy_weights > 0) & (correction > 0),
        )

    def _correction(self, mismatch: Tensor, tokens: TokenColumns) -> Tensor:
        """The weight [C] of the policy term. A mask is 0 or 1 where the ratio of the loss is to the sampler already."""
        config = self._config
        if config.mismatch_correction == "none":
            return torch.ones_like(mismatch)
        level, _, how = config.mismatch_correction.partition("_")
        ratio = (sequence_sums(mismatch, tokens.sequences) if level == "sequence" else mismatch).exp()
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
        case "grpo" | "dr_grpo" | "dapo" | "bnpo" | "gspo":
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
        case "dapo" | "bnpo" | "cispo":
            return token_mean_weights(lengths)


def sequence_advantages(part: SelectedGroups, logprobs: TokenLogprobs, config: TrainingConfig) -> Float64:
    """[B]: the advantage of the trajectory that each sequence is of."""
    groups = overlong_penalised_groups(part.groups)
    if config.kl_in == "reward" and logprobs.reference is not None:
        kl = KL_ESTIMATORS[config.kl_estimator](torch.from_numpy(logprobs.old), torch.from_numpy(logprobs.reference))
        groups = kl_penalised_groups(groups, kl.numpy(), config.kl_coefficient)
    advantages = [value for group in group_advantages(groups, config.advantages) for value in group.tolist()]
    return np.repeat(np.array(advantages, dtype=np.float64), part.num_turns)
