from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import Tensor

from grpo_core.rollout.torch_engine.sampling import draw_tokens

LOGITS = torch.tensor([1.0, 3.0, 2.0, 0.0, -1.0])


def exact(logits: Tensor, temperature: float, top_p: float, allowed: list[int] | None) -> dict[int, float]:
    """The distribution by its definition, one token after the other."""
    ids = range(len(logits)) if allowed is None else allowed
    weights = {token: float((logits[token].double() / temperature).exp()) for token in ids}
    ordered = sorted(weights, key=lambda token: -weights[token])
    kept: list[int] = []
    for token in ordered:
        if not kept or sum(weights[other] for other in kept) < top_p * sum(weights.values()):
            kept.append(token)
    mass = sum(weights[token] for token in kept)
    return {token: weights[token] / mass for token in kept}


@pytest.mark.parametrize(
    ("temperature", "top_p", "allowed"),
    [
        (1.0, 1.0, None),
        (0.5, 1.0, None),
        (2.0, 0.8, None),
        (1.0, 0.9, [0, 2, 3, 4]),
        (1.0, 1.0, [4, 0]),
        (1.0, 0.1, None),
    ],
)
def test_frequencies_logprobs_and_support_are_those_of_the_distribution(
    temperature: float, top_p: float, allowed: list[int] | None
) -> None:
    num = 20_000
    uniforms = np.random.default_rng(0).random(num).tolist()
    expected = exact(LOGITS, temperature, top_p, allowed)

    draws = draw_tokens(LOGITS.expand(num, -1), [temperature] * num, [top_p] * num, uniforms, [allowed] * num)

    counts = np.bincount([draw.token for draw in draws], minlength=len(LOGITS))
    assert set(np.flatnonzero(counts)) == set(expected)
    tokens = sorted(expected)
    if len(tokens) > 1:
        assert chisquare(counts[tokens], [expected[token] * num for token in tokens]).pvalue > 1e-6
    for draw in draws[:200]:
        assert draw.logprob == pytest.approx(np.log(expected[draw.token]), abs=1e-9)
        if allowed is None and top_p == 1.0:
            assert draw.support is None
        else:
            assert draw.support is not None
            assert draw.support.tolist() == tokens


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    temperature=st.floats(0.05, 5.0),
    top_p=st.floats(0.05, 1.0),
    constrained=st.booleans(),
)
def test_a_draw_is_the_inverse_of_the_cumulative_distribution(
    seed: int, temperature: float, top_p: float, constrained: bool
) -> None:
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.standard_normal(12) * 3)
    allowed = sorted(rng.choice(12, 5, replace=False).tolist()) if constrained else None
    uniform = float(rng.random())
    expected = exact(logits, temperature, top_p, allowed)

    (draw,) = draw_tokens(logits[None], [temperature], [top_p], [uniform], [allowed])

    below = sum(value for token, value in expected.items() if token < draw.token)
    assert below - 1e-9 <= uniform <= below + expected[draw.token] + 1e-9
    assert draw.logprob == pytest.approx(np.log(expected[draw.token]), abs=1e-9)


def test_rows_do_not_depend_on_each_other() -> None:
    rng = np.random.default_rng(1)
    logits = torch.from_numpy(rng.standard_normal((6, 9))).float()
    temperatures, top_ps = [0.3, 1.0, 2.0, 1.0, 0.7, 1.0], [1.0, 0.5, 1.0, 0.9, 0.2, 1.0]
    uniforms = rng.random(6).tolist()
    allowed = [None, [1, 2, 3], None, [0, 8], None, [4, 5]]

    together = draw_tokens(logits, temperatures, top_ps, uniforms, allowed)

    for row in range(6):
        part = slice(row, row + 1)
        (alone,) = draw_tokens(logits[part], temperatures[part], top_ps[part], uniforms[part], allowed[part])
        assert (alone.token, alone.logprob) == (together[row].token, together[row].logprob)
        assert np.array_equal(np.array(alone.support, dtype=object), np.array(together[row].support, dtype=object))
        assert (alone.support is None) == (allowed[row] is None and top_ps[row] == 1.0)


def test_the_support_is_what_the_constraint_permits_even_where_it_is_improbable() -> None:
    """A token that underflows today may not after the update, and the loss renormalises over this support."""
    logits = torch.tensor([[0.0, 50.0, -50.0, 10.0]])

    (draw,) = draw_tokens(logits, [0.01], [1.0], [0.5], [[3, 1, 2]])

    assert draw.support is not None
    assert (draw.token, draw.support.tolist(), draw.support.dtype) == (1, [1, 2, 3], np.int32)


@pytest.mark.parametrize("uniform", [0.0, 1.0 - 2**-53])
def test_the_ends_of_the_interval_give_possible_tokens(uniform: float) -> None:
    logits = torch.zeros(1, 7)
    (draw,) = draw_tokens(logits, [1.0], [1.0], [uniform], [[2, 4]])
    (free,) = draw_tokens(torch.linspace(-3, 3, 1001)[None], [0.3], [1.0], [uniform], [None])

    assert draw.token == (2 if uniform == 0.0 else 4)
    assert free.token == (0 if uniform == 0.0 else 1000)


def test_equal_probabilities_leave_the_nucleus_in_the_order_of_their_ids() -> None:
    (draw,) = draw_tokens(torch.zeros(1, 300), [1.0], [0.01], [0.9], [None])

    assert draw.support is not None
    assert draw.support.tolist() == [0, 1, 2]
