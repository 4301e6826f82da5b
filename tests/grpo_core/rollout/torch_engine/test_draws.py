"""Compiled draws, beside those of ``sampling.py``."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from grpo_core.errors import SamplingError
from grpo_core.kernels.crew import open_crew
from grpo_core.rollout.protocol import SamplingParams
from grpo_core.rollout.sampling import Draw, draw_tokens
from grpo_core.rollout.torch_engine.draws import NativeDraws, open_draws
from tests.grpo_core.rollout.torch_engine.random_decoders import needs_compiler

pytestmark = needs_compiler

SIZES = (1, 2, 15, 16, 63, 64, 65, 500, 4096, 4097, 9000)


def native() -> NativeDraws:
    crew = open_crew()
    assert crew is not None
    draws = open_draws(crew)
    assert draws is not None
    return draws


def random_logits(num_rows: int, num_columns: int, scale: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(num_columns)
    logits = scale * torch.randn(num_rows, num_columns, generator=generator)
    holes = torch.rand(num_rows, num_columns, generator=generator) < 0.2
    holes[:, num_columns // 2] = False
    return logits.masked_fill(holes, -torch.inf)


@pytest.mark.parametrize("num_columns", SIZES)
@pytest.mark.parametrize(("scale", "temperature"), [(1.0, 1.0), (5.0, 0.7), (60.0, 1.0), (1e-3, 1e-4), (3e30, 1e3)])
def test_they_are_those_of_the_plain_one(num_columns: int, scale: float, temperature: float) -> None:
    logits = random_logits(9, num_columns, scale)
    uniforms = [0.0, 1 - 2.0**-53, *np.random.default_rng(num_columns).random(7).tolist()]
    distributions = (logits.double() / float(np.float32(temperature))).softmax(dim=-1)
    columns, probabilities = native()(logits, [temperature] * 9, uniforms)
    for row, (column, probability) in enumerate(zip(columns, probabilities, strict=True)):
        exact = distributions[row]
        assert exact[column] > 0
        assert probability == pytest.approx(float(exact[column]), rel=1e-4)
        before = float(exact[:column].sum())
        assert before - 1e-5 <= uniforms[row] <= before + float(exact[column]) + 1e-5


@pytest.mark.parametrize("num_columns", [70, 20_000])
def test_both_ways_draw_the_same_tokens(num_columns: int) -> None:
    logits = random_logits(64, num_columns, 3.0)
    params = [SamplingParams(seed, temperature=1.0 if seed % 2 else 1.3) for seed in range(64)]
    uniforms = np.random.default_rng(3).random(64).tolist()
    allowed = [None if row % 3 else np.arange(row, num_columns, 2) for row in range(64)]
    fast = draw_tokens(logits, params, uniforms, allowed, native())
    for row, (mine, plain) in enumerate(zip(fast, draw_tokens(logits, params, uniforms, allowed), strict=True)):
        assert isinstance(mine, Draw)
        assert isinstance(plain, Draw)
        assert mine.token == plain.token
        assert mine.logprob == pytest.approx(plain.logprob, abs=1e-5)
        assert (mine.support is None) == (plain.support is None) == bool(row % 3)


def test_a_row_has_the_same_bits_in_any_company_and_number_of_threads() -> None:
    logits = random_logits(40, 9000, 2.0)
    uniforms = np.random.default_rng(5).random(40).tolist()
    draws, before = native(), torch.get_num_threads()
    alone = [draws(logits[row : row + 1], [0.9], uniforms[row : row + 1]) for row in range(40)]
    try:
        for num_threads in (1, 2, 5):
            torch.set_num_threads(num_threads)
            columns, probabilities = draws(logits, [0.9] * 40, uniforms)
            assert [([column], [each]) for column, each in zip(columns, probabilities, strict=True)] == alone
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("num_columns", [3, 100, 5000])
@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_a_row_without_a_distribution_is_an_error_and_the_others_are_drawn(num_columns: int, wrong: float) -> None:
    logits = torch.zeros(3, num_columns)
    if wrong == -math.inf:
        logits[1] = wrong
    else:
        logits[1, num_columns - 1] = wrong
    found = draw_tokens(logits, [SamplingParams(0)] * 3, [0.5] * 3, [None] * 3, native())
    assert isinstance(found[1], SamplingError)
    assert [each.token for each in (found[0], found[2]) if isinstance(each, Draw)] == [num_columns // 2] * 2
