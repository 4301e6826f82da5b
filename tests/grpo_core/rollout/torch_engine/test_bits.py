"""What compiled passes give has the same bits, whoever shares them and however the work is divided.

The machine that runs these tests has a C compiler; where there is none they are skipped.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from grpo_core.config import ModelConfig
from grpo_core.kernels import compiler
from grpo_core.lora.cache import LoRACache
from grpo_core.lora.store import AdapterStore
from grpo_core.model.policy import Policy, load_policy
from grpo_core.rollout.constraints.lines import LineConstraint
from grpo_core.rollout.protocol import GenerationRequest, SamplingParams
from grpo_core.rollout.sequence import SequenceState
from grpo_core.rollout.torch_engine.cache.prefix_cache import PrefixCache, PrefixNode
from grpo_core.rollout.torch_engine.cache.rows import RowBatch, plan_rows
from grpo_core.rollout.torch_engine.engine import TorchEngine
from grpo_core.rollout.torch_engine.forward.passes import Passes
from grpo_core.rollout.torch_engine.prefill import next_chunks, read_chunks
from grpo_core.rollout.torch_engine.weights.adapters import FusedAdapter
from grpo_core.rollout.torch_engine.weights.fused import DecoderWeights
from grpo_core.rollout.torch_engine.weights.versions import VersionWeights
from grpo_core.types import Adapter, Completion, Int32
from tests.grpo_core.rollout.torch_engine.random_decoders import (
    QUICK_FIRST,
    VOCAB,
    Build,
    needs_compiler,
    prompt,
)

pytestmark = needs_compiler

PROMPT = prompt(0, 213)
CONTINUATION = prompt(1, 23).tolist()
MATES = [np.concatenate([PROMPT[:stop], prompt(seed, more)]) for seed, (stop, more) in enumerate([(80, 41), (150, 9)])]
MATES += [prompt(7, 5), prompt(8, 130)]


@dataclass(frozen=True)
class Company:
    """Who is computed beside one sequence, and how the work is divided."""

    before: tuple[int, ...] = ()  # of MATES, read with the prompt and before it
    after: tuple[int, ...] = ()
    late: tuple[int, ...] = ()  # read once the prompt has been: nodes that are ready are split
    group: int = 1
    max_tokens: int = 512
    counts: tuple[int, ...] = (1,) * len(CONTINUATION)  # tokens of the continuation in each pass
    num_threads: int = 1
    is_packed: bool = False


COMPANIES = {
    "packed": Company(is_packed=True),
    "threads": Company(num_threads=2),
    "more threads": Company(num_threads=3, is_packed=True),
    "chunks": Company(max_tokens=30),
    "small chunks": Company(max_tokens=7, num_threads=2, is_packed=True),
    "jumps": Company(counts=(9, 1, 13)),
    "jumps, packed": Company(counts=(2, 21), is_packed=True, num_threads=2),
    "mates": Company(before=(0, 2), after=(1, 3), group=3),
    "mates, packed": Company(before=(3, 1), after=(0,), group=17, is_packed=True, num_threads=2, counts=(5, 1, 1, 16)),
    "split when ready": Company(late=(0, 1, 2), group=2, max_tokens=100, is_packed=True),
    "everything": Company((2,), (0,), (1, 3), 5, 53, (1, 7, 1, 1, 13), 3, True),
}


@contextmanager
def threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def states_in(company: Company, passes: Passes, plain: DecoderWeights) -> dict[str, Tensor]:
    """What is computed of ``PROMPT`` and ``CONTINUATION`` in ``company``: keys, values and states."""
    products = passes.products
    assert products is not None
    weights = FusedAdapter(plain, products).merge({}) if company.is_packed else plain
    cache = PrefixCache(weights)

    def read(prompts: Sequence[Int32]) -> list[PrefixNode]:
        leaves = [cache.acquire(1, ids) for ids in prompts]
        while chunks := next_chunks(leaves, company.max_tokens):
            read_chunks(chunks, VersionWeights(weights, None), cache, passes)
        return leaves

    prompts = [*(MATES[index] for index in company.before), PROMPT, *(MATES[index] for index in company.after)]
    leaves = read(prompts)
    late = [MATES[index] for index in company.late]
    leaves, prompts = leaves + read(late), prompts + late
    place = len(company.before)
    path = leaves[place].path()
    requests = [
        GenerationRequest(ids, SamplingParams(0, max_tokens=100)) for ids in prompts for _ in range(company.group)
    ]
    sequences = [SequenceState(0, request, 1, frozenset(), 1 << 20) for request in requests]
    rows = plan_rows(list(zip(sequences, [leaf for leaf in leaves for _ in range(company.group)], strict=True)))
    batch = RowBatch(weights)
    batch.add(rows)
    mine = rows[place * company.group]
    if len(rows) > 2:
        batch.remove(rows[-2])  # a free slot computes along
    slot = batch.rows.index(mine)
    states: list[Tensor] = []
    done = 0
    for step, count in enumerate(company.counts):
        tokens = [prompt(step + index, 1 + index % 4).tolist() for index in range(len(batch.rows))]
        tokens = [each if row is not None else [0] for each, row in zip(tokens, batch.rows, strict=True)]
        tokens[slot] = CONTINUATION[done : done + count]
        first = sum(map(len, tokens[:slot]))
        states.append(passes.over_rows(weights, tokens, batch)[first : first + count])
        for row, each in zip(batch.rows, tokens, strict=True):
            if row is not None:
                row.num_own += len(each)
        done += count
    end = leaves[place].end_hidden
    assert end is not None
    own = slice(mine.num_own - len(CONTINUATION), mine.num_own)
    return {
        "prompt keys": torch.cat([node.keys for node in path if node.keys is not None], dim=2),
        "prompt values": torch.cat([node.values for node in path if node.values is not None], dim=2),
        "end": end,
        "states": torch.cat(states),
        "keys": batch.keys[:, slot, :, own],
        "values": batch.values[:, slot, :, own],
    }


def assert_same_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name
    assert torch.cat([tensor.flatten() for tensor in one.values()]).isfinite().all()


@pytest.mark.parametrize("company", COMPANIES.values(), ids=COMPANIES.keys())
@pytest.mark.parametrize(("architecture", "shape"), QUICK_FIRST)
@torch.inference_mode()
def test_states_have_the_same_bits_in_any_company(
    architecture: str, shape: dict[str, int], company: Company, build: Build
) -> None:
    weights = build(architecture, **shape)
    passes = Passes(weights, native=True)
    with threads(1):
        alone = states_in(Company(), passes, weights)

    with threads(company.num_threads):
        assert_same_bits(alone, states_in(company, passes, weights))


@pytest.mark.slow
@torch.inference_mode()
def test_narrower_vectors_have_bits_of_their_own(
    fresh_cache: Path, monkeypatch: pytest.MonkeyPatch, build: Build
) -> None:
    """What a processor without AVX-512 runs."""
    monkeypatch.setattr(compiler, "FLAGS", (*compiler.FLAGS, "-mno-avx512f"))
    weights = build("qwen3", num_attention_heads=14, head_dim=80)
    passes = Passes(weights, native=True)
    assert list(fresh_cache.glob("decode-*.so"))

    alone = states_in(Company(), passes, weights)

    for company in COMPANIES.values():
        with threads(company.num_threads):
            assert_same_bits(alone, states_in(company, passes, weights))


@torch.inference_mode()
def test_the_end_of_a_prompt_within_another_has_the_same_bits(build: Build) -> None:
    """Its keys are there, and only its last state is computed anew."""
    weights = build()
    passes = Passes(weights, native=True)
    ends: list[Tensor | None] = []
    for longer in ([], [PROMPT]):
        cache = PrefixCache(weights)
        for prompts in (longer, [PROMPT[:112]]):
            leaves = [cache.acquire(1, ids) for ids in prompts]
            while chunks := next_chunks(leaves, 512):
                assert all(chunk.keep for chunk in chunks) or longer
                read_chunks(chunks, VersionWeights(weights, None), cache, passes)
        ends.append(leaves[0].end_hidden)

    assert ends[0] is not None
    assert ends[1] is not None
    assert torch.equal(ends[0], ends[1])


@torch.inference_mode()
def test_logits_have_the_same_bits_in_any_company(build: Build) -> None:
    weights = build("qwen3", hidden_size=192)
    weights.head.bias = torch.randn(VOCAB)
    passes = Passes(weights, native=True)
    hidden = torch.randn(37, 192)
    expected = torch.cat([passes.over_head(weights, row[None]) for row in hidden])

    torch.testing.assert_close(expected, hidden @ weights.head.weight.T + weights.head.bias, atol=2e-5, rtol=2e-5)
    for num, number in itertools.product((2, 3, 8, 37), (1, 2, 3)):
        with threads(number):
            assert torch.equal(passes.over_head(weights, hidden[:num]), expected[:num])
            for ids in (torch.tensor([5]), torch.tensor([1, 7, 8, 200, 319]), torch.arange(0, VOCAB, 3)):
                assert torch.equal(passes.over_head(weights, hidden[:num], ids), expected[:num, ids])


MakeAdapter = Callable[..., Adapter]
LINES = ((tuple(range(10, 30)), (*range(10, 18), 3, 4), (11, 12, 5)), ((40,), (41, 42), (43, 44, 45)))


def requests_of_all_kinds() -> list[GenerationRequest]:
    """Some share prompts, some are constrained, some narrowed."""
    shared = prompt(0, 100)
    prompts = [np.concatenate([shared, prompt(seed, 3 + 31 * seed)]) for seed in range(1, 4)] + [shared, prompt(5, 17)]
    options: list[dict[str, Any]] = [{}, {"temperature": 0.7}, {"top_p": 0.8}, {"top_k": 20, "min_p": 0.01}]
    requests = [
        GenerationRequest(ids, SamplingParams(seed, max_tokens=5 + 7 * seed % 11, ignore_stop=True, **kind))
        for seed, (ids, kind) in enumerate(itertools.product(prompts, options))
    ]
    constraint = LineConstraint((LINES[0], LINES[1], LINES[0]))
    requests += [replace(each, constraint=constraint) for each in requests[:6]]
    return [replace(each, want_ref_logprobs=index % 3 == 0) for index, each in enumerate(requests)]


def assert_same_completions(ones: Sequence[Completion], others: Sequence[Completion]) -> None:
    for one, other in zip(ones, others, strict=True):
        assert one.completion_ids.tolist() == other.completion_ids.tolist()
        assert one.sampling_logprobs.tobytes() == other.sampling_logprobs.tobytes()
        assert (one.ref_logprobs is None) == (other.ref_logprobs is None)
        if one.ref_logprobs is not None and other.ref_logprobs is not None:
            assert one.ref_logprobs.tobytes() == other.ref_logprobs.tobytes()


@pytest.mark.parametrize("version", [pytest.param(0, marks=pytest.mark.slow), 1])
@pytest.mark.parametrize(
    "architecture", ["qwen2", *(pytest.param(name, marks=pytest.mark.slow) for name in ("qwen3", "llama"))]
)
def test_completions_have_the_same_bits_in_any_company(
    architecture: str, version: int, model_folders: dict[str, Path], make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    policy = load_policy(ModelConfig(name=str(model_folders[architecture]), device="cpu"))
    store = AdapterStore(tmp_path / "adapters")
    store.publish(make_adapter(policy, number=1, targets=("q_proj", "v_proj", "down_proj"), std=0.2))

    def engine(**options: Any) -> TorchEngine:
        engine = TorchEngine(policy, (-1,), LoRACache(store, 1 << 20, 3), "run", **options)
        engine.use_version(version)
        return engine

    requests = requests_of_all_kinds()
    alone = [engine().generate([each])[0] for each in requests]

    assert len({each.completion_ids.tobytes() for each in alone}) > len(alone) // 2
    assert_same_completions(engine().generate(requests), alone)
    assert_same_completions(engine().generate(requests[::-1])[::-1], alone)
    assert_same_completions(engine(jump_forward=False, prefill_tokens=33).generate(requests), alone)
    assert_same_completions(engine(max_batch_sequences=3).generate(requests), alone)
    for number in (2, 3):
        with threads(number):
            assert_same_completions(engine().generate(requests), alone)
    warm = engine()
    for _ in range(2):  # the second time all prompts are there
        assert_same_completions(warm.generate(requests), alone)


def test_a_version_that_ran_beside_another_has_its_own_bits_once_it_is_active(
    policy: Policy, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    """Beside the active one it is computed with torch, and what that leaves behind is not used any more."""
    store = AdapterStore(tmp_path / "adapters")
    store.publish(make_adapter(policy, number=1, targets=("q_proj", "v_proj"), std=0.2))
    request = GenerationRequest(PROMPT[:150], SamplingParams(3, max_tokens=20))
    fresh, used = (TorchEngine(policy, (-1,), LoRACache(store, 1 << 20, 3), "run") for _ in range(2))
    ticket = used.submit(replace(request, policy_version=1))
    used.step()
    for engine in (fresh, used):
        engine.use_version(1)
    used.cancel(ticket)

    assert_same_completions(used.generate([request]), fresh.generate([request]))
