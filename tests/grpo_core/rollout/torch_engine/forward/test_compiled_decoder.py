"""Compiled passes against the same passes with torch, and what becomes of a machine that cannot compile.

The machine that runs these tests has a C compiler; where there is none they are skipped.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from grpo_core.kernels import compiler
from grpo_core.rollout.torch_engine.forward.compiled_decoder import open_native
from grpo_core.rollout.torch_engine.forward.passes import Passes
from grpo_core.rollout.torch_engine.weights.fused import DecoderWeights
from tests.grpo_core.rollout.torch_engine.random_decoders import (
    QUICK_FIRST,
    Build,
    advance,
    needs_compiler,
    prompt,
    read,
    rows_of,
)


def everything(weights: DecoderWeights, *, native: bool, max_tokens: int) -> list[Tensor]:
    """All that passes over prompts and rows give: with shared beginnings, parts, forced runs, free slots."""
    shared = prompt(0, 100)
    prompts = [np.concatenate([shared, prompt(1, 13)]), np.concatenate([shared, prompt(2, 80)]), prompt(3, 7)]
    with torch.inference_mode():
        passes = Passes(weights, native=native)
        leaves = read(passes, weights, prompts, max_tokens)
        states = [torch.stack([leaf.end_hidden for leaf in leaves if leaf.end_hidden is not None])]
        for leaf in leaves:
            for node in leaf.path():
                assert node.keys is not None
                assert node.values is not None
                states += [node.keys, node.values]
        batch = rows_of(weights, leaves, prompts, group=3)
        states += [advance(passes, weights, batch, seed, most) for seed, most in enumerate((1, 1, 9))]
        states += [advance(passes, weights, batch, seed, most, only_last=True) for seed, most in enumerate((9, 1, 9))]
        used = [slot for slot, row in enumerate(batch.rows) if row is not None]
        return [*states, batch.keys[:, used], batch.values[:, used]]


@needs_compiler
@pytest.mark.parametrize("num_threads", [2, *(pytest.param(num, marks=pytest.mark.slow) for num in (1, 3))])
@pytest.mark.parametrize("max_tokens", [30, 512])
@pytest.mark.parametrize(("architecture", "shape"), QUICK_FIRST)
def test_compiled_passes_give_what_torch_gives(
    architecture: str, shape: dict[str, int], max_tokens: int, num_threads: int, build: Build
) -> None:
    weights = build(architecture, **shape)
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        compiled = everything(weights, native=True, max_tokens=max_tokens)
        plain = everything(weights, native=False, max_tokens=max_tokens)
    finally:
        torch.set_num_threads(before)

    for one, other in zip(compiled, plain, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=2e-5)


@needs_compiler
@pytest.mark.slow
def test_narrower_vectors_give_the_same(fresh_cache: Path, monkeypatch: pytest.MonkeyPatch, build: Build) -> None:
    """What a processor without AVX-512 runs."""
    monkeypatch.setattr(compiler, "FLAGS", (*compiler.FLAGS, "-mno-avx512f"))
    weights = build("qwen3", head_dim=80)

    compiled = everything(weights, native=True, max_tokens=512)

    assert list(fresh_cache.glob("*.so"))
    for one, other in zip(compiled, everything(weights, native=False, max_tokens=512), strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=2e-5)


@needs_compiler
def test_what_is_not_a_number_stays_in_its_row(build: Build) -> None:
    weights = build(num_key_value_heads=1)
    prompts = [prompt(3, 9), prompt(4, 9)]
    with torch.inference_mode():
        passes = Passes(weights, native=True)
        states = []
        for is_damaged in (False, True):
            batch = rows_of(weights, read(passes, weights, prompts, 512), prompts, group=2)
            if is_damaged:
                batch.keys[:, 2, :, :4] = float("nan")
                batch.values[:, 2, :, 2:6] = float("inf")
            states.append(passes.over_rows(weights, [[5]] * len(batch.rows), batch))

    sound, damaged = states
    assert not damaged[2].isfinite().any()
    others = [0, 1, 3]
    assert torch.equal(sound[others], damaged[others])


@needs_compiler
def test_weights_that_are_swapped_are_the_ones_in_use(build: Build) -> None:
    weights = build()
    other = replace(weights, embedding=weights.embedding * 2)
    with torch.inference_mode():
        passes = Passes(weights, native=True)
        ends = [read(passes, each, [prompt(0, 20)], 512)[0].end_hidden for each in (weights, other, weights)]

    assert all(end is not None for end in ends)
    assert not torch.equal(ends[0], ends[1])  # type: ignore[arg-type]
    assert torch.equal(ends[0], ends[2])  # type: ignore[arg-type]


def test_other_weights_are_left_to_torch(build: Build) -> None:
    weights = build()

    assert open_native(replace(weights, embedding=weights.embedding.bfloat16())) is None
    assert open_native(replace(weights, head_size=24)) is None
    assert open_native(replace(weights, num_heads=34)) is None


def test_without_a_compiler_torch_decodes_and_says_so(
    fresh_cache: Path, build: Build, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", "")
    weights = build()

    with caplog.at_level(logging.WARNING):
        states = everything(weights, native=True, max_tokens=512)
        everything(weights, native=True, max_tokens=512)

    assert all(each.isfinite().all() for each in states)
    (said,) = [record.getMessage() for record in caplog.records if record.name == "grpo_core.kernels.compiler"]
    assert "no C compiler" in said
    assert "CC" in said
