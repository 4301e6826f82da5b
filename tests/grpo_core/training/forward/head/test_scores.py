from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from grpo_core.training.forward.head import chunks
from grpo_core.training.forward.head.chosen import ChosenTokens, Support, TokenScores
from grpo_core.training.forward.head.scores import _Scores, score_tokens
from grpo_core.types import RaggedIds

HIDDEN, VOCAB, NUM = 5, 17, 9


def problem(seed: int, *, supports: bool, bias: bool = False) -> tuple[Tensor, nn.Linear, ChosenTokens]:
    rng = np.random.default_rng(seed)
    head = nn.Linear(HIDDEN, VOCAB, bias=bias, dtype=torch.float64)
    for parameter in head.parameters():
        parameter.data = torch.from_numpy(rng.standard_normal(parameter.shape))
    states = torch.from_numpy(rng.standard_normal((NUM, HIDDEN))).requires_grad_()
    targets = rng.integers(0, VOCAB, NUM)
    support = None
    if supports:
        owners = np.array([1, 2, 4, 5, 8])
        rows = [np.union1d(rng.integers(0, VOCAB, size), targets[i]) for i, size in zip(owners, range(5), strict=True)]
        support = Support(
            torch.from_numpy(owners), RaggedIds.of([rng.permutation(row).astype(np.int32) for row in rows])
        )
    temperatures = torch.from_numpy(rng.uniform(0.5, 1.5, NUM).astype(np.float32))
    return states, head, ChosenTokens(torch.from_numpy(targets), temperatures, support)


def plain(states: Tensor, head: nn.Linear, chosen: ChosenTokens) -> TokenScores:
    """Token by token, by ``log_softmax`` over what it was drawn from."""
    supports: dict[int, Tensor] = {}
    if chosen.support is not None:
        for place, token in enumerate(chosen.support.tokens.tolist()):
            supports[token] = torch.from_numpy(chosen.support.sets[place].astype(np.int64))
    logprobs, entropies = [], []
    for index, target in enumerate(chosen.targets.tolist()):
        ids = supports.get(index, torch.arange(VOCAB))
        distribution = (head(states[index])[ids] / chosen.temperatures[index]).log_softmax(dim=-1)
        logprobs.append(distribution[ids == target][0])
        entropies.append(-(distribution.exp() * distribution).sum())
    return TokenScores(torch.stack(logprobs), torch.stack(entropies))


@pytest.fixture(params=["blocks", "ragged", "small_chunks"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How supports are computed, and in what chunks."""
    monkeypatch.setattr(chunks, "GATHER_COST", 0 if request.param == "ragged" else 10**6)
    if request.param == "small_chunks":
        monkeypatch.setattr(chunks, "MIN_CHUNK_TOKENS", 2)
        monkeypatch.setattr(chunks, "MAX_CHUNK_LOGITS", {"cpu": 1})
    return request.param


@pytest.mark.parametrize("supports", [False, True])
@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_scores_and_gradients_are_those_of_log_softmax(path: str, supports: bool, trained: bool, bias: bool) -> None:
    found: list[Any] = []
    rng = np.random.default_rng(7)
    weights = torch.from_numpy(rng.standard_normal((2, NUM)))
    for score in (lambda *inputs: score_tokens(*inputs, entropy_gradient=True), plain):
        states, head, chosen = problem(0, supports=supports, bias=bias)
        head.requires_grad_(trained)
        scores = score(states, head, chosen)
        (weights[0] * scores.logprobs + weights[1] * scores.entropy).sum().backward()
        gradients = [states.grad, *(parameter.grad for parameter in head.parameters() if trained)]
        found.append([scores.logprobs, scores.entropy, *gradients])

    for mine, expected in zip(*found, strict=True):
        assert float(expected.detach().abs().max()) > 0.1
        assert torch.allclose(mine, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("supports", [False, True])
def test_gradients_are_those_of_finite_differences(path: str, supports: bool) -> None:
    states, head, chosen = problem(1, supports=supports, bias=True)

    def score(states: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        return _Scores.apply(states, weight, bias, chosen, True, nullcontext)  # pyright: ignore[reportReturnType]

    weight, bias = head.weight.detach(), head.bias.detach()
    assert torch.autograd.gradcheck(lambda states: score(states, weight, bias), [states])
    assert torch.autograd.gradcheck(score, [states, head.weight, head.bias])


def test_entropy_has_no_gradient_unless_asked_for() -> None:
    states, head, chosen = problem(2, supports=True)
    head.requires_grad_(False)

    scores = score_tokens(states, head, chosen)
    assert scores.logprobs.requires_grad
    assert not scores.entropy.requires_grad
    scores.logprobs.sum().backward()
    alone = states.grad
    states.grad = None
    score_tokens(states, head, chosen, entropy_gradient=True).logprobs.sum().backward()
    assert alone is not None
    assert states.grad is not None
    assert torch.equal(alone, states.grad)


def test_large_and_impossible_logits_stay_finite() -> None:
    states, head, chosen = problem(3, supports=True)
    states, head = (states.detach() * 1e4).float().requires_grad_(), head.float()
    scores = score_tokens(states, head, chosen, entropy_gradient=True)
    (scores.logprobs.sum() + scores.entropy.sum()).backward()

    for values in (scores.logprobs, scores.entropy, states.grad):
        assert values is not None
        assert torch.isfinite(values).all()
    assert float(scores.entropy.detach().min()) >= 0


def test_never_two_tensors_of_tokens_times_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all tensors that are made, none has more entries than a chunk."""
    monkeypatch.setattr(chunks, "MIN_CHUNK_TOKENS", 8)
    monkeypatch.setattr(chunks, "MAX_CHUNK_LOGITS", {"cpu": 1})
    sizes: list[int] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            sizes.extend(
                part.numel()
                for part in (result if isinstance(result, tuple) else (result,))
                if isinstance(part, Tensor)
            )
            return result

    rng = np.random.default_rng(0)
    head = nn.Linear(4, 1000, bias=False).requires_grad_(False)
    states = torch.from_numpy(rng.standard_normal((100, 4))).float().requires_grad_()
    chosen = ChosenTokens(torch.from_numpy(rng.integers(0, 1000, 100)), torch.ones(100), None)
    with Watch():
        score_tokens(states, head, chosen).logprobs.sum().backward()
    assert max(sizes) == 8 * 1000
