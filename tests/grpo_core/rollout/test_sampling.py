from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import Tensor

import grpo_core.rollout.sampling
from grpo_core.errors import SamplingError
from grpo_core.rollout.protocol import SamplingParams
from grpo_core.rollout.sampling import Draw, check_sampling, draw_tokens
from grpo_core.types import MAX_TEMPERATURE, MIN_TEMPERATURE

Allowed = Sequence[Sequence[int] | None]
LOGITS = torch.tensor([1.0, 3.0, 2.0, 0.0, -1.0])


def draws_of(
    logits: Tensor, params: Sequence[SamplingParams], uniforms: Sequence[float], allowed: Allowed
) -> list[Draw]:
    """The draws, of which none may be an error."""
    draws = draw_tokens(logits, params, uniforms, allowed)
    return [draw for draw in draws if isinstance(draw, Draw) or pytest.fail(str(draw))]


def sampling(temperature: float = 1.0, top_p: float = 1.0, top_k: int = 0, min_p: float = 0.0) -> SamplingParams:
    return SamplingParams(0, temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p)


def exact(logits: Tensor, params: SamplingParams, allowed: list[int] | None) -> dict[int, float]:
    """The distribution by its definition, one token after the other."""
    ids = range(len(logits)) if allowed is None else allowed
    weights = {token: float((logits[token].double() / params.temperature).exp()) for token in ids}
    ordered = sorted(weights, key=lambda token: -weights[token])[: params.top_k or None]
    ordered = [token for token in ordered if weights[token] >= params.min_p * weights[ordered[0]]]
    kept: list[int] = []
    for token in ordered:
        mass = sum(weights[other] for other in kept)
        if not kept or mass < params.top_p * sum(weights[other] for other in ordered):
            kept.append(token)
    mass = sum(weights[token] for token in kept)
    return {token: weights[token] / mass for token in kept}


@pytest.mark.parametrize(
    ("params", "allowed"),
    [
        (sampling(), None),
        (sampling(0.5), None),
        (sampling(2.0, 0.8), None),
        (sampling(1.0, 0.9), [0, 2, 3, 4]),
        (sampling(), [4, 0]),
        (sampling(1.0, 0.1), None),
        (sampling(top_k=3), None),
        (sampling(top_k=1), None),
        (sampling(min_p=0.2), None),
        (sampling(2.0, top_k=2), [0, 3, 4]),
        (sampling(1.5, 0.7, 4, 0.1), None),
    ],
)
def test_frequencies_logprobs_and_support_are_those_of_the_distribution(
    params: SamplingParams, allowed: list[int] | None
) -> None:
    num = 20_000
    uniforms = np.random.default_rng(0).random(num).tolist()
    expected = exact(LOGITS, params, allowed)

    draws = draws_of(LOGITS.expand(num, -1), [params] * num, uniforms, [allowed] * num)

    counts = np.bincount([draw.token for draw in draws], minlength=len(LOGITS))
    assert set(np.flatnonzero(counts)) == set(expected)
    tokens = sorted(expected)
    if len(tokens) > 1:
        assert chisquare(counts[tokens], [expected[token] * num for token in tokens]).pvalue > 1e-6
    for draw in draws[:200]:
        assert draw.logprob == pytest.approx(np.log(expected[draw.token]), abs=1e-6)
        if allowed is None and params == sampling(params.temperature):
            assert draw.support is None
        else:
            assert draw.support is not None
            assert draw.support.tolist() == tokens


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    temperature=st.floats(0.05, 5.0),
    top_p=st.floats(0.05, 1.0),
    top_k=st.integers(0, 14),
    min_p=st.floats(0.0, 0.9),
    constrained=st.booleans(),
)
def test_a_draw_is_the_inverse_of_the_cumulative_distribution(
    seed: int, temperature: float, top_p: float, top_k: int, min_p: float, constrained: bool
) -> None:
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.standard_normal(12) * 3).float()
    allowed = sorted(rng.choice(12, 5, replace=False).tolist()) if constrained else None
    uniform = float(rng.random())
    params = SamplingParams(0, temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p)
    expected = exact(logits, params, allowed)

    (draw,) = draws_of(logits[None], [params], [uniform], [allowed])

    below = sum(value for token, value in expected.items() if token < draw.token)
    assert below - 1e-5 <= uniform <= below + expected[draw.token] + 1e-5
    assert draw.logprob == pytest.approx(np.log(expected[draw.token]), abs=1e-5)


def test_rows_do_not_depend_on_each_other() -> None:
    rng = np.random.default_rng(1)
    logits = torch.from_numpy(rng.standard_normal((6, 9))).float()
    params = [sampling(0.3), sampling(1, 0.5), sampling(2, 1, 3), sampling(1, 0.9), sampling(0.7, 0.2), sampling()]
    uniforms = rng.random(6).tolist()
    allowed = [None, [1, 2, 3], None, [0, 8], None, [4, 5]]

    together = draws_of(logits, params, uniforms, allowed)

    for row in range(6):
        part = slice(row, row + 1)
        (alone,) = draws_of(logits[part], params[part], uniforms[part], allowed[part])
        assert alone.token == together[row].token
        assert alone.logprob == pytest.approx(together[row].logprob, abs=1e-6)
        assert np.array_equal(np.array(alone.support, dtype=object), np.array(together[row].support, dtype=object))
        assert (alone.support is None) == (row == 0)


def test_the_support_is_what_the_constraint_permits_even_where_it_is_improbable() -> None:
    """A token that underflows today may not after the update, and the loss renormalises over this support."""
    logits = torch.tensor([[0.0, 50.0, -50.0, 10.0]])

    (draw,) = draws_of(logits, [sampling(0.01)], [0.5], [[3, 1, 2]])

    assert draw.support is not None
    assert (draw.token, draw.support.tolist(), draw.support.dtype) == (1, [1, 2, 3], np.int32)


@pytest.mark.parametrize("uniform", [0.0, 1.0 - 2**-53])
def test_the_ends_of_the_interval_give_possible_tokens(uniform: float) -> None:
    logits = torch.zeros(1, 7)
    (draw,) = draws_of(logits, [sampling()], [uniform], [[2, 4]])
    (free,) = draws_of(torch.linspace(-3, 3, 1001)[None], [sampling(0.3)], [uniform], [None])

    assert draw.token == (2 if uniform == 0.0 else 4)
    assert free.token == (0 if uniform == 0.0 else 1000)


def test_equal_probabilities_leave_the_nucleus_in_the_order_of_their_ids() -> None:
    (draw,) = draws_of(torch.zeros(1, 300), [sampling(1.0, 0.0095)], [0.9], [None])

    assert draw.support is not None
    assert draw.support.tolist() == [0, 1, 2]


def test_greedy_takes_the_first_of_the_most_probable() -> None:
    (draw,) = draws_of(torch.tensor([[0.0, 2.0, 2.0, 1.0]]), [sampling(top_k=1)], [0.99], [None])

    assert draw.support is not None
    assert (draw.token, draw.logprob, draw.support.tolist()) == (1, 0.0, [1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_ids", [1, 700, 5_000])
def test_rows_that_are_indexed_one_by_one_are_drawn_as_those_indexed_at_once(
    monkeypatch: pytest.MonkeyPatch, num_ids: int, dtype: torch.dtype
) -> None:
    """Bit for bit, beside a row of another length, and alone."""
    rng = np.random.default_rng(num_ids)
    logits = torch.from_numpy(rng.normal(scale=4, size=(3, 6_000))).to(dtype)
    allowed = [rng.permutation(6_000)[:num_ids].tolist(), None, rng.permutation(6_000)[: num_ids + 90].tolist()]
    params, uniforms = [sampling(), sampling(), sampling(0.7, 0.9)], [0.3, 0.5, 0.8]

    found = []
    for row_by_row in (0, 1_000_000):
        monkeypatch.setattr(grpo_core.rollout.sampling, "ROW_BY_ROW", row_by_row)
        found.append(draws_of(logits, params, uniforms, allowed))
    alone = [draws_of(logits[row : row + 1], [params[row]], [uniforms[row]], [allowed[row]])[0] for row in range(3)]

    for others in (found[0], alone):
        for draw, other in zip(found[1], others, strict=True):
            assert (draw.token, draw.logprob) == (other.token, other.logprob)
            assert np.array_equal(np.asarray(draw.support), np.asarray(other.support))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_not_numbers_cost_only_their_row(bad: float) -> None:
    logits = torch.zeros(3, 4)
    logits[1, 2] = bad
    for allowed in ([None] * 3, [[0, 2]] * 3):
        for params in (sampling(), sampling(top_k=2)):
            first, second, third = draw_tokens(logits, [params] * 3, [0.1, 0.1, 0.1], allowed)
            assert isinstance(first, Draw)
            assert isinstance(third, Draw)
            assert isinstance(second, SamplingError)
            assert "non-finite" in str(second)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"temperature": 0.0}, r"temperature 0\.0: .*top_k=1"),
        ({"temperature": -1.0}, r"temperature -1\.0"),
        ({"temperature": 1e-39}, r"temperature 1e-39: allowed is 1e-06 to 1e\+06"),
        ({"temperature": 1e39}, r"temperature 1e\+39: allowed is 1e-06 to 1e\+06"),
        ({"temperature": float("nan")}, "temperature nan"),
        ({"temperature": float("inf")}, "temperature inf"),
        ({"top_p": 0.0}, r"top_p 0\.0"),
        ({"top_p": 1.5}, r"top_p 1\.5"),
        ({"top_k": -1}, "top_k -1"),
        ({"min_p": 1.0}, r"min_p 1\.0"),
        ({"seed": -1}, "seed -1"),
    ],
)
def test_parameters_out_of_their_range_are_named(change: dict[str, float], match: str) -> None:
    check_sampling(sampling())
    with pytest.raises(SamplingError, match=match):
        check_sampling(replace(sampling(), **change))


@pytest.mark.parametrize("temperature", [MIN_TEMPERATURE, MAX_TEMPERATURE])
def test_at_both_ends_of_the_range_logits_stay_numbers(temperature: float) -> None:
    logits = 1e3 * torch.randn(1, 320, generator=torch.Generator().manual_seed(0))
    (drawn,) = draw_tokens(logits, [sampling(temperature)], [0.5], [None])
    assert isinstance(drawn, Draw)
    assert math.isfinite(drawn.logprob)
    assert drawn.token == int(logits.argmax()) or temperature == MAX_TEMPERATURE


@pytest.mark.parametrize("num_columns", [17, 320, 2050])
def test_a_draw_has_the_same_bits_in_any_company(num_columns: int) -> None:
    rng = np.random.default_rng(0)
    kinds: list[dict[str, Any]] = [{}, {"temperature": 0.7}, {"top_p": 0.8}, {"top_k": 7, "min_p": 0.02}]
    params = [SamplingParams(row, **kinds[row % 4]) for row in range(45)]
    uniforms = rng.random(45).tolist()
    allowed = [rng.permutation(num_columns)[: 1 + 5 * row].tolist() if row % 3 else None for row in range(45)]
    logits = torch.from_numpy(rng.normal(size=(45, num_columns), scale=3.0).astype(np.float32))

    def draw(rows: Sequence[int]) -> list[Draw]:
        chosen = ([params[row] for row in rows], [uniforms[row] for row in rows], [allowed[row] for row in rows])
        return draws_of(logits[list(rows)], *chosen)

    alone = [draw([row])[0] for row in range(45)]

    for rows in (range(45), range(44, -1, -1), range(1, 45, 3), range(0, 45, 3), range(5)):
        for row, each in zip(rows, draw(rows), strict=True):
            expected = alone[row]
            assert (each.token, each.logprob) == (expected.token, expected.logprob)
            assert (each.support is None) == (expected.support is None)
            if each.support is not None and expected.support is not None:
                assert each.support.tolist() == expected.support.tolist()


@pytest.mark.parametrize("num_ids", [20, 100, 130])
def test_company_does_not_move_the_points_at_which_tokens_change(num_ids: int) -> None:
    """Uniforms as close to them as numbers can be."""
    logits = torch.randn(1, 500, generator=torch.Generator().manual_seed(0))
    few, many = list(range(num_ids)), list(range(500))
    ends = logits[0, :num_ids].softmax(dim=0).double().cumsum(dim=0)
    bounds = (ends / ends[-1]).tolist()[:-1]
    uniforms = [bound + step * 2.0**-27 for bound in bounds for step in range(-8, 9)]
    params = [SamplingParams(0)] * len(uniforms)

    alone = draws_of(logits.expand(len(uniforms), -1), params, uniforms, [few] * len(uniforms))
    beside = draws_of(
        logits.expand(len(uniforms) + 1, -1), [*params, params[0]], [*uniforms, 0.5], [few] * len(uniforms) + [many]
    )

    assert len({draw.token for draw in alone}) == num_ids
    assert [draw.token for draw in alone] == [draw.token for draw in beside[:-1]]
