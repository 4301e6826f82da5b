from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo_core.training.objective.kl import KL_ESTIMATORS, bias_corrected, k1, k2, k3

logprob_lists = st.lists(st.tuples(st.floats(-12, 0), st.floats(-12, 0)), min_size=1, max_size=20)


def logs(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64).log()


def test_by_hand() -> None:
    policy, ref = logs(0.5, 0.25).requires_grad_(), logs(0.25, 0.5)
    log2 = math.log(2)

    assert k1(policy, ref).tolist() == pytest.approx([log2, -log2])
    assert k2(policy, ref).tolist() == pytest.approx([log2**2 / 2] * 2)
    assert k3(policy, ref).tolist() == pytest.approx([0.5 + log2 - 1, 2 - log2 - 1])
    for estimator, expected in ((k1, [1, 1]), (k2, [log2, -log2]), (k3, [1 - 0.5, 1 - 2])):
        (gradient,) = torch.autograd.grad(estimator(policy, ref).sum(), policy)
        assert gradient.tolist() == pytest.approx(expected)


@settings(deadline=None)
@given(values=logprob_lists)
def test_k3_is_never_negative_and_all_are_zero_at_the_reference(values: list[tuple[float, float]]) -> None:
    policy, ref = torch.tensor(values, dtype=torch.float64).T
    kl = k3(policy, ref)

    assert bool((kl >= -1e-12).all())
    apart = (policy - ref).abs() > 1e-3
    assert bool((kl[apart] > 0).all())
    for estimator in KL_ESTIMATORS.values():
        assert estimator(policy, policy).tolist() == [0.0] * len(values)


@pytest.mark.parametrize("name", ["k1", "k3"])
def test_k1_and_k3_are_unbiased(name: str) -> None:
    policy, ref = logs(0.5, 0.3, 0.2), logs(0.2, 0.2, 0.6)

    expected = (policy.exp() * (policy - ref)).sum()
    assert (policy.exp() * KL_ESTIMATORS[name](policy, ref)).sum().item() == pytest.approx(expected.item(), abs=1e-12)


def test_in_the_loss_k2_has_the_gradient_of_the_divergence_and_k1_has_none() -> None:
    """Expected over the samples of a softmax policy, on policy: what the docstrings warn of."""
    theta = torch.tensor([0.3, -1.0, 0.8], dtype=torch.float64, requires_grad=True)
    ref = logs(0.2, 0.2, 0.6)

    def gradient(loss: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad(loss, theta)[0]

    policy = theta.log_softmax(0)
    divergence = gradient((policy.exp() * (policy - ref)).sum())
    found = {}
    for name, estimator in KL_ESTIMATORS.items():
        policy = theta.log_softmax(0)
        found[name] = gradient((policy.exp().detach() * estimator(policy, ref)).sum())

    assert torch.allclose(found["k2"], divergence, atol=1e-12)
    assert float(found["k1"].abs().max()) < 1e-12
    reverse = theta.detach().softmax(0) - ref.exp()  # gradient of KL(reference || policy)
    assert torch.allclose(found["k3"], reverse, atol=1e-12)


def test_the_bias_correction_by_hand() -> None:
    """Ratios 2 and 1/2 to the old policy. The derivative of r k is r (k + k')."""
    policy, old, ref = logs(0.5, 0.25).requires_grad_(), logs(0.25, 0.5), logs(0.25, 0.5)
    log2 = math.log(2)

    corrected = bias_corrected(k3(policy, ref), policy - old)
    (gradient,) = torch.autograd.grad(corrected.sum(), policy)

    assert corrected.tolist() == pytest.approx([2 * (log2 - 0.5), 0.5 * (1 - log2)])
    assert gradient.tolist() == pytest.approx([2 * (log2 - 0.5 + 0.5), 0.5 * (1 - log2 - 1)])


@pytest.mark.parametrize("name", ["k1", "k3"])
@pytest.mark.parametrize("is_on_policy", [True, False])
def test_corrected_estimates_have_the_value_and_the_gradient_of_the_divergence(name: str, is_on_policy: bool) -> None:
    """Expected over the samples of an old softmax policy, against autograd through the divergence of the new one."""
    theta = torch.tensor([0.3, -1.0, 0.8], dtype=torch.float64, requires_grad=True)
    ref = logs(0.2, 0.2, 0.6)
    old = theta.detach().log_softmax(0) if is_on_policy else logs(0.5, 0.3, 0.2)

    policy = theta.log_softmax(0)
    divergence = (policy.exp() * (policy - ref)).sum()
    (expected,) = torch.autograd.grad(divergence, theta)
    policy = theta.log_softmax(0)
    estimate = (old.exp() * bias_corrected(KL_ESTIMATORS[name](policy, ref), policy - old)).sum()
    (found,) = torch.autograd.grad(estimate, theta)

    assert estimate.item() == pytest.approx(divergence.item(), abs=1e-12)
    assert torch.allclose(found, expected, atol=1e-12)
    assert float(expected.abs().max()) > 0.1
    policy = theta.log_softmax(0)
    (plain,) = torch.autograd.grad((old.exp() * KL_ESTIMATORS[name](policy, ref)).sum(), theta)
    assert float((plain - expected).abs().max()) > 0.01  # what it corrects
