from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from grpo_core.training.objective.policy_losses import PolicyTerm, cispo_loss, clipped_surrogate, sapo_loss

logprob_lists = st.lists(st.tuples(st.floats(-12, 0), st.floats(-12, 0), st.floats(-3, 3)), min_size=1, max_size=20)


def logs(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).log()


def token_loss(logprobs: Tensor, old: Tensor, advantages: Tensor) -> PolicyTerm:
    return clipped_surrogate((logprobs - old).exp(), advantages, clip_low=0.2, clip_high=0.3)


def test_the_clipped_surrogate_by_hand() -> None:
    """Ratios 0.5, 1, 2 with advantage +1, then with -1; bounds 0.8 and 1.3."""
    logprobs = logs(0.2, 0.4, 0.8, 0.2, 0.4, 0.8).requires_grad_()
    advantages = torch.tensor([1.0, 1.0, 1.0, -1.0, -1.0, -1.0], dtype=torch.float64)

    term = token_loss(logprobs, logs(*[0.4] * 6), advantages)
    (gradient,) = torch.autograd.grad(term.loss.sum(), logprobs)

    assert term.loss.tolist() == pytest.approx([-0.5, -1, -1.3, 0.8, 1, 2])
    assert gradient.tolist() == pytest.approx([-0.5, -1, 0, 0, 1, 2])  # none where the bound is active
    assert term.is_clipped_low.tolist() == [False, False, False, True, False, False]
    assert term.is_clipped_high.tolist() == [False, False, True, False, False, False]


def test_the_dual_bound_by_hand() -> None:
    """Ratios 1, 2.9, 3.1, 40 with advantage -2, then with +2; the second bound is 3."""
    ratio = torch.tensor([1.0, 2.9, 3.1, 40.0] * 2, dtype=torch.float64, requires_grad=True)
    advantages = torch.tensor([-2.0] * 4 + [2.0] * 4, dtype=torch.float64)

    term = clipped_surrogate(ratio, advantages, clip_low=0.2, clip_high=0.3, clip_dual=3.0)
    (gradient,) = torch.autograd.grad(term.loss.sum(), ratio)

    assert term.loss.tolist() == pytest.approx([2, 5.8, 6, 6, -2, -2.6, -2.6, -2.6])
    assert gradient.tolist() == pytest.approx([2, 2, 0, 0, -2, 0, 0, 0])
    assert term.is_clipped_high.tolist() == [False, False, True, True, False, True, True, True]
    assert not term.is_clipped_low.any()


@settings(deadline=None)
@given(values=logprob_lists)
def test_on_policy_the_gradient_is_that_of_the_plain_policy_gradient(values: list[tuple[float, float, float]]) -> None:
    columns = torch.tensor(values, dtype=torch.float64).T
    logprobs, advantages = columns[0].clone().requires_grad_(), columns[2]

    term = token_loss(logprobs, logprobs.detach(), advantages)
    (gradient,) = torch.autograd.grad(term.loss.sum(), logprobs)

    assert not (term.is_clipped_low | term.is_clipped_high).any()
    assert torch.allclose(gradient, -advantages, atol=1e-12)


@settings(deadline=None)
@given(values=logprob_lists)
def test_clipping_only_ever_raises_the_loss(values: list[tuple[float, float, float]]) -> None:
    """The clipped objective is a lower bound of the plain one."""
    logprobs, old, advantages = torch.tensor(values, dtype=torch.float64).T
    term = token_loss(logprobs, old, advantages)

    plain = -(logprobs - old).exp() * advantages
    assert bool((term.loss >= plain - 1e-9).all())
    assert bool(((term.loss - plain).abs() <= 1e-9)[~(term.is_clipped_low | term.is_clipped_high)].all())


def test_the_expected_gradient_on_an_enumerable_policy_is_the_closed_form() -> None:
    """A softmax over four answers with rewards: E[gradient of the loss] = -p * (reward - mean reward)."""
    theta = torch.tensor([0.3, -1.0, 0.8, 0.0], dtype=torch.float64, requires_grad=True)
    rewards = torch.tensor([1.0, 0.0, -2.0, 0.5], dtype=torch.float64)
    old = theta.detach().log_softmax(0)
    probabilities = old.exp()
    baseline = (probabilities * rewards).sum()

    term = token_loss(theta.log_softmax(0), old, rewards - baseline)
    (probabilities * term.loss).sum().backward()

    assert torch.allclose(theta.grad, -probabilities * (rewards - baseline), atol=1e-12)  # type: ignore[arg-type]


def test_off_policy_inside_the_bounds_the_expected_gradient_is_still_that_of_the_policy() -> None:
    """Importance sampling: answers drawn from the old policy, the gradient of the new one's expected reward."""
    theta = torch.tensor([0.2, -0.1, 0.1], dtype=torch.float64, requires_grad=True)
    rewards = torch.tensor([1.0, 0.0, 2.0], dtype=torch.float64)
    old = torch.zeros(3, dtype=torch.float64).log_softmax(0)
    probabilities = theta.detach().softmax(0)
    baseline = (probabilities * rewards).sum()

    term = token_loss(theta.log_softmax(0), old, rewards - baseline)
    (old.exp() * term.loss).sum().backward()

    assert not (term.is_clipped_low | term.is_clipped_high).any()
    assert torch.allclose(theta.grad, -probabilities * (rewards - baseline), atol=1e-12)  # type: ignore[arg-type]


def test_cispo_by_hand() -> None:
    """Ratios 0.5, 1, 3 with advantage 2, then -1; the bound is 1.5. The ratio is a weight, without a gradient."""
    old = torch.tensor([0.2] * 6, dtype=torch.float64).log()
    logprobs = torch.tensor([0.1, 0.2, 0.6] * 2, dtype=torch.float64).log().requires_grad_()
    advantages = torch.tensor([2.0] * 3 + [-1.0] * 3, dtype=torch.float64)

    term = cispo_loss(logprobs, (logprobs - old).exp(), advantages, clip_high=0.5)
    (gradient,) = torch.autograd.grad(term.loss.sum(), logprobs)

    assert gradient.tolist() == pytest.approx([-1, -2, -3, 0.5, 1, 1.5])  # -min(r, 1.5) A: none is lost
    expected = [weight * value for weight, value in zip(gradient.tolist(), logprobs.tolist(), strict=True)]
    assert term.loss.tolist() == pytest.approx(expected)
    assert term.is_clipped_high.tolist() == [False, False, True, False, False, True]
    assert not term.is_clipped_low.any()


def gradient_at(ratio: Tensor, advantages: Tensor) -> tuple[Tensor, Tensor]:
    ratio = ratio.clone().requires_grad_()
    loss = sapo_loss(ratio, advantages, temperature_positive=1.0, temperature_negative=2.0).loss
    return loss.detach(), torch.autograd.grad(loss.sum(), ratio)[0]


def test_sapo_by_hand() -> None:
    """Ratios 1 and 1 + ln 3 with advantages +2 and -1, temperatures 1 and 2: sigmoids 1/2, 3/4 and 1/2, 9/10."""
    ratio = torch.tensor([1.0, 1 + math.log(3)] * 2, dtype=torch.float64)
    advantages = torch.tensor([2.0, 2.0, -1.0, -1.0], dtype=torch.float64)

    loss, gradient = gradient_at(ratio, advantages)

    assert loss.tolist() == pytest.approx([-4 * 0.5 * 2, -4 * 0.75 * 2, 2 * 0.5, 2 * 0.9])
    # 4 s (1 - s) A: that of -r A at r = 1
    assert gradient.tolist() == pytest.approx([-2, -4 * 0.75 * 0.25 * 2, 1, 4 * 0.9 * 0.1])


def test_the_gradient_fades_on_both_sides_and_faster_for_negative_advantages() -> None:
    ratio = torch.linspace(0, 8, 81, dtype=torch.float64)
    _, up = gradient_at(ratio, torch.ones_like(ratio))
    _, down = gradient_at(ratio, -torch.ones_like(ratio))

    assert int(up.abs().argmax()) == int(down.abs().argmax()) == 10  # ratio 1
    assert bool((up.abs().diff()[:10] > 0).all())
    assert bool((up.abs().diff()[10:] < 0).all())
    assert bool((down.abs() <= up.abs() + 1e-12).all())
