"""Estimates of KL(policy || reference) from a token that the policy sampled (Schulman 2020, "Approximating KL")."""

from __future__ import annotations

from torch import Tensor


def k1(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """log p - log ref: unbiased, of either sign. As a loss its gradient has mean 0: use it in the reward."""
    return logprobs - ref_logprobs


def k2(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """(log p - log ref)^2 / 2: biased, little variance. As a loss on policy its gradient is that of the KL itself."""
    return (logprobs - ref_logprobs).square() / 2


def k3(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """exp(d) - d - 1 with d = log ref - log p: unbiased and never negative (Shao et al. 2024, DeepSeekMath, eq. 4)."""
    difference = ref_logprobs - logprobs
    return difference.exp() - difference - 1.0


def bias_corrected(kl: Tensor, log_ratio: Tensor) -> Tensor:
    """r kl, with r = p / p_old and its gradient: over tokens that the old policy sampled, k1 and k3 then estimate the
    divergence of the policy itself, and their gradient its gradient, off policy and on it (DeepSeek-AI 2025,
    DeepSeek-V3.2, section 3.1, "unbiased KL estimate").
    """
    return log_ratio.exp() * kl


KL_ESTIMATORS = {"k1": k1, "k2": k2, "k3": k3}
