from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from grpo_core.training.loss import TokenLoss, grpo_token_loss, k3_kl


def token_loss(
    logprobs: Tensor,
    old: Tensor,
    advantages: Tensor,
    ref: Tensor | None = None,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.3,
    kl_coefficient: float = 0.0,
) -> TokenLoss:
    return grpo_token_loss(
        logprobs, old, ref, advantages, clip_low=clip_low, clip_high=clip_high, kl_coefficient=kl_coefficient
    )


def logs(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).log()


def test_by_hand() -> None:
    """Ratios 0.5, 1, 2 with advantage +1, then with -1; bounds 0.8 and 1.3."""
    logprobs = logs(0.2, 0.4, 0.8, 0.2, 0.4, 0.8).requires_grad_()
    advantages = torch.tensor([1.0, 1.0, 1.0, -1.0, -1.0, -1.0], dtype=torch.float64)

    terms = token_loss(logprobs, logs(*[0.4] * 6), advantages)
    (gradient,) = torch.autograd.grad(terms.loss.sum(), logprobs)

    assert terms.ratio.tolist() == pytest.approx([0.5, 1, 2, 0.5, 1, 2])
    assert terms.loss.tolist() == pytest.approx([-0.5, -1, -1.3, 0.8, 1, 2])
    assert gradient.tolist() == pytest.approx([-0.5, -1, 0, 0, 1, 2])  # none where the bound is active
    assert terms.is_clipped.tolist() == [False, False, True, True, False, False]
    assert terms.kl is None
    assert not terms.ratio.requires_grad


def test_the_kl_term_by_hand() -> None:
    logprobs = logs(0.5, 0.25).requires_grad_()
    ref = logs(0.25, 0.5)

    terms = token_loss(logprobs, logprobs.detach(), torch.zeros(2, dtype=torch.float64), ref, kl_coefficient=0.1)
    (gradient,) = torch.autograd.grad(terms.loss.sum(), logprobs)

    expected = [0.5 + math.log(2) - 1, 2 - math.log(2) - 1]
    assert terms.kl is not None
    assert not terms.kl.requires_grad
    assert terms.kl.tolist() == pytest.approx(expected)
    assert terms.loss.tolist() == pytest.approx([0.1 * value for value in expected])
    assert gradient.tolist() == pytest.approx([0.1 * (1 - 0.5), 0.1 * (1 - 2)])  # d/dlogp: 1 - ref/policy


logprob_lists = st.lists(st.tuples(st.floats(-12, 0), st.floats(-12, 0), st.floats(-3, 3)), min_size=1, max_size=20)


@given(values=logprob_lists)
def test_on_policy_the_gradient_is_that_of_the_plain_policy_gradient(values: list[tuple[float, float, float]]) -> None:
    columns = torch.tensor(values, dtype=torch.float64).T
    logprobs, advantages = columns[0].clone().requires_grad_(), columns[2]

    terms = token_loss(logprobs, logprobs.detach(), advantages)
    (gradient,) = torch.autograd.grad(terms.loss.sum(), logprobs)

    assert terms.ratio.tolist() == [1.0] * len(values)
    assert not terms.is_clipped.any()
    assert torch.allclose(gradient, -advantages, atol=1e-12)


@given(values=logprob_lists)
def test_kl_is_never_negative_and_zero_only_at_the_reference(values: list[tuple[float, float, float]]) -> None:
    policy, ref, _ = torch.tensor(values, dtype=torch.float64).T
    kl = k3_kl(policy, ref)

    assert bool((kl >= -1e-12).all())
    assert k3_kl(policy, policy).tolist() == [0.0] * len(values)
    apart = (policy - ref).abs() > 1e-3
    assert bool((kl[apart] > 0).all())


@given(values=logprob_lists)
def test_clipping_only_ever_raises_the_loss(values: list[tuple[float, float, float]]) -> None:
    """The clipped objective is a lower bound of the plain one."""
    logprobs, old, advantages = torch.tensor(values, dtype=torch.float64).T
    terms = token_loss(logprobs, old, advantages)

    plain = -terms.ratio * advantages
    assert bool((terms.loss >= plain - 1e-9).all())
    assert bool(((terms.loss - plain).abs() <= 1e-9)[~terms.is_clipped].all())


def test_k3_estimates_the_kl_divergence_without_bias() -> None:
    policy, ref = logs(0.5, 0.3, 0.2), logs(0.2, 0.2, 0.6)

    expected = (policy.exp() * (policy - ref)).sum()
    assert (policy.exp() * k3_kl(policy, ref)).sum().item() == pytest.approx(expected.item(), abs=1e-12)


def test_the_expected_gradient_on_an_enumerable_policy_is_the_closed_form() -> None:
    """A softmax over four answers with rewards: E[gradient of the loss] = -p * (reward - mean reward)."""
    theta = torch.tensor([0.3, -1.0, 0.8, 0.0], dtype=torch.float64, requires_grad=True)
    rewards = torch.tensor([1.0, 0.0, -2.0, 0.5], dtype=torch.float64)
    old = theta.detach().log_softmax(0)
    probabilities = old.exp()
    baseline = (probabilities * rewards).sum()

    terms = token_loss(theta.log_softmax(0), old, rewards - baseline)
    (probabilities * terms.loss).sum().backward()

    assert torch.allclose(theta.grad, -probabilities * (rewards - baseline), atol=1e-12)  # type: ignore[arg-type]


def test_off_policy_inside_the_bounds_the_expected_gradient_is_still_that_of_the_policy() -> None:
    """Importance sampling: answers drawn from the old policy, the gradient of the new one's expected reward."""
    theta = torch.tensor([0.2, -0.1, 0.1], dtype=torch.float64, requires_grad=True)
    rewards = torch.tensor([1.0, 0.0, 2.0], dtype=torch.float64)
    old = torch.zeros(3, dtype=torch.float64).log_softmax(0)
    probabilities = theta.detach().softmax(0)
    baseline = (probabilities * rewards).sum()

    terms = token_loss(theta.log_softmax(0), old, rewards - baseline)
    (old.exp() * terms.loss).sum().backward()

    assert not terms.is_clipped.any()
    assert torch.allclose(theta.grad, -probabilities * (rewards - baseline), atol=1e-12)  # type: ignore[arg-type]
