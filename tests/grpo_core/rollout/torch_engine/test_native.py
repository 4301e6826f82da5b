"""Compiled passes against the same passes with torch, and what becomes of a machine that cannot compile.

The machine that runs these tests has a C compiler; where there is none they are skipped.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from grpo_core.config import ModelConfig
from grpo_core.model import load_policy
from grpo_core.native import compiler
from grpo_core.rollout.draft import Draft
from grpo_core.rollout.protocol import GenerationRequest, SamplingParams
from grpo_core.rollout.torch_engine.native.decoder import open_native
from grpo_core.rollout.torch_engine.passes import Passes
from grpo_core.rollout.torch_engine.prefill import next_chunks, read_chunks
from grpo_core.rollout.torch_engine.prefix_cache import PrefixCache, PrefixNode
from grpo_core.rollout.torch_engine.rows import RowBatch, plan_rows
from grpo_core.rollout.torch_engine.versions import VersionWeights
from grpo_core.rollout.torch_engine.weights import DecoderWeights, fuse_weights
from grpo_core.types import Int32

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None and shutil.which("gcc") is None, reason="no C compiler")
VOCAB = 320
Build = Callable[..., DecoderWeights]


@pytest.fixture
def build(tmp_path: Path, model_folder: Path) -> Build:
    """Random weights of a shape, of some scale, biases and norms included."""

    def build(architecture: str = "qwen2", **shape: int) -> DecoderWeights:
        config = AutoConfig.for_model(
            architecture,
            vocab_size=VOCAB,
            num_hidden_layers=2,
            initializer_range=0.1,
            max_position_embeddings=2048,
            **{"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2} | shape,
        )
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():
            if parameter.dim() == 1:
                torch.nn.init.normal_(parameter, mean=parameter.mean().item(), std=0.1)
        folder = tmp_path / architecture
        model.save_pretrained(folder)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(model_folder / name, folder / name)
        return fuse_weights(load_policy(ModelConfig(name=str(folder), device="cpu")))

    return build


def prompt(seed: int, length: int) -> Int32:
    return np.random.default_rng(seed).integers(1, VOCAB, length, dtype=np.int32)


def read(passes: Passes, weights: DecoderWeights, prompts: list[Int32], max_tokens: int) -> list[PrefixNode]:
    """The ends of ``prompts``, all of which are computed, ``max_tokens`` in a pass."""
    cache = PrefixCache(weights)
    leaves = [cache.acquire(1, ids) for ids in prompts]
    while chunks := next_chunks(leaves, max_tokens):
        read_chunks(chunks, VersionWeights(weights, None), cache, passes)
    return leaves


def rows_of(weights: DecoderWeights, leaves: list[PrefixNode], prompts: list[Int32], group: int) -> RowBatch:
    """``group`` sequences after each prompt, and a free slot."""
    drafts = [
        Draft(0, GenerationRequest(ids, SamplingParams(0, max_tokens=40)), 1, frozenset())
        for ids in prompts
        for _ in range(group)
    ]
    rows = plan_rows(list(zip(drafts, [leaf for leaf in leaves for _ in range(group)], strict=True)))
    batch = RowBatch(weights)
    batch.add(rows)
    batch.remove(rows[1])
    return batch


def advance(
    passes: Passes, weights: DecoderWeights, batch: RowBatch, seed: int, most: int, *, only_last: bool = False
) -> Tensor:
    """The states of one pass over 1 to ``most`` tokens of every row, without those of free slots."""
    rng = np.random.default_rng(seed)
    tokens = [rng.integers(1, VOCAB, rng.integers(1, most + 1) if row else 1).tolist() for row in batch.rows]
    states = passes.over_rows(weights, tokens, batch, only_last=only_last)
    is_used: list[bool] = []
    for row, each in zip(batch.rows, tokens, strict=True):
        is_used += [row is not None] * (1 if only_last else len(each))
        if row is not None:
            row.num_own += len(each)
    return states[torch.tensor(is_used)]


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
@pytest.mark.parametrize("num_threads", [1, 2, 3])
@pytest.mark.parametrize("max_tokens", [30, 512])
@pytest.mark.parametrize(
    ("architecture", "shape"),
    [
        ("qwen2", {}),
        ("qwen3", {"head_dim": 32}),
        ("llama", {"num_key_value_heads": 4}),
        ("qwen2", {"hidden_size": 192, "intermediate_size": 208, "num_attention_heads": 3, "num_key_value_heads": 1}),
        ("qwen3", {"num_attention_heads": 14, "num_key_value_heads": 2, "head_dim": 80}),
    ],
)
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
    (said,) = [record.getMessage() for record in caplog.records if record.name == "grpo_core.native"]
    assert "no C compiler" in said
    assert "CC" in said
