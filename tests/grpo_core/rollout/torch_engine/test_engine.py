from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from scipy.stats import chisquare
from torch import Tensor, nn

from grpo_core.config import ModelConfig
from grpo_core.errors import AdapterCorruptError, AdapterError, AdapterNotFoundError, PromptError
from grpo_core.lora.cache import LoRACache
from grpo_core.lora.store import AdapterStore
from grpo_core.model import Policy, load_policy
from grpo_core.rollout.constraint import LineConstraint
from grpo_core.rollout.protocol import EngineCounters, GenerationRequest, SamplingParams, run_requests
from grpo_core.rollout.torch_engine.engine import TorchEngine
from grpo_core.types import Adapter, Completion, Int32

STOP_ID = 0
NO_STOP = -1
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
PlainLogprobs = Callable[[Any, Completion], Tensor]
MakeAdapter = Callable[..., Adapter]


@dataclass
class Bench:
    """An engine with the store that it reads."""

    policy: Policy
    store: AdapterStore
    engine: TorchEngine

    def publish_and_use(self, adapter: Adapter) -> None:
        self.store.publish(adapter)
        self.engine.use_version(adapter.version.number)


MakeBench = Callable[..., Bench]


@pytest.fixture
def make_bench(model_folder: Path, tmp_path: Path) -> MakeBench:
    def make(folder: Path = model_folder, *, stop_id: int = STOP_ID, **limits: int) -> Bench:
        policy = load_policy(ModelConfig(name=str(folder), device="cpu"))
        store = AdapterStore(tmp_path / "adapters")
        cache = LoRACache(store, max_bytes=1 << 20, max_adapters=3)
        return Bench(policy, store, TorchEngine(policy, stop_id, cache, "run", **limits))  # pyright: ignore[reportArgumentType]

    return make


def prompt(seed: int, length: int) -> Int32:
    return np.random.default_rng(seed).integers(1, 320, length, dtype=np.int32)


def request(
    prompt_ids: Int32,
    seed: int = 0,
    *,
    temperature: float = 1.0,
    top_p: float = 1.0,
    max_tokens: int = 12,
    constraint: LineConstraint | None = None,
    want_ref: bool = False,
) -> GenerationRequest:
    sampling = SamplingParams(seed, temperature=temperature, top_p=top_p, max_tokens=max_tokens)
    return GenerationRequest(prompt_ids, sampling, constraint, want_ref)


def random_constraint(rng: np.random.Generator, *, distinct: bool = False) -> LineConstraint:
    """Up to three segments of up to six lines that share prefixes; the last token of a line is 7 and only that."""

    def segment() -> tuple[tuple[int, ...], ...]:
        return tuple((*rng.integers(20, 23, rng.integers(1, 5)).tolist(), 7) for _ in range(rng.integers(1, 7)))

    first = segment()
    num = int(rng.integers(1, 4))
    if distinct:
        return LineConstraint((first,) * min(num, len(set(first))), distinct=True)
    return LineConstraint((first, *(segment() for _ in range(num - 1))))


def random_requests(rng: np.random.Generator, num_groups: int, *, want_ref: bool = False) -> list[GenerationRequest]:
    """Groups of 1 to 4 siblings, shuffled, with and without constraints, at several temperatures and lengths."""
    requests = []
    for group in range(num_groups):
        prompt_ids = prompt(int(rng.integers(1000)) + 1000 * group, int(rng.integers(1, 40)))
        constraint = random_constraint(rng, distinct=bool(rng.integers(2))) if rng.random() < 0.5 else None
        for _ in range(int(rng.integers(1, 5))):
            requests.append(
                request(
                    prompt_ids,
                    int(rng.integers(2**63)),
                    temperature=float(rng.choice([0.5, 0.75, 1.0, 1.5])),
                    top_p=float(rng.choice([0.8, 0.9, 1.0])),
                    max_tokens=int(rng.integers(1, 20)),
                    constraint=constraint,
                    want_ref=want_ref,
                )
            )
    order = rng.permutation(len(requests))
    return [requests[index] for index in order]


def assert_same(one: Completion, other: Completion) -> None:
    assert one.completion_ids.tolist() == other.completion_ids.tolist()
    assert one.completion_mask.tolist() == other.completion_mask.tolist()
    assert one.finish_reason == other.finish_reason
    assert np.allclose(one.sampling_logprobs, other.sampling_logprobs, atol=1e-5, rtol=0)
    assert (one.allowed_ids is None) == (other.allowed_ids is None)
    if one.allowed_ids is not None and other.allowed_ids is not None:
        assert one.allowed_ids.ids.tolist() == other.allowed_ids.ids.tolist()
        assert one.allowed_ids.offsets.tolist() == other.allowed_ids.offsets.tolist()


def peft_model(bench: Bench, adapter: Adapter, plain_model: nn.Module) -> nn.Module:
    """``plain_model`` with ``adapter`` as PEFT loads it from the store's folder, unmerged."""
    return PeftModel.from_pretrained(plain_model, bench.store.folder_of(adapter.version)).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("architecture", ["qwen2", "qwen3", "llama"])
def test_cold_sampling_is_the_greedy_search_of_transformers(
    architecture: str,
    native: bool,
    model_folders: dict[str, Path],
    make_bench: MakeBench,
    load_plain: Callable[[Path], Any],
) -> None:
    plain = load_plain(model_folders[architecture])
    prompts = [prompt(seed, length) for seed, length in enumerate((1, 5, 17, 40))]

    completions = make_bench(model_folders[architecture], native=native).engine.generate(
        [request(ids, temperature=1e-6, max_tokens=24) for ids in prompts]
    )

    for ids, completion in zip(prompts, completions, strict=True):
        input_ids = torch.from_numpy(ids.astype(np.int64))[None]
        expected = plain.generate(
            input_ids, attention_mask=torch.ones_like(input_ids), do_sample=False, max_new_tokens=24
        )[0, len(ids) :]
        assert completion.completion_ids.tolist() == expected.tolist()


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("with_adapter", [False, True])
def test_sampling_logprobs_are_those_of_a_plain_forward(
    with_adapter: bool,
    native: bool,
    make_bench: MakeBench,
    make_adapter: MakeAdapter,
    plain_model: nn.Module,
    plain_logprobs: PlainLogprobs,
) -> None:
    bench = make_bench(native=native)
    rng = np.random.default_rng(0)
    constraint = random_constraint(rng)
    options: list[dict[str, Any]] = [
        {},
        {"temperature": 0.75},
        {"temperature": 0.75, "top_p": 0.9},
        {"constraint": constraint},
        {"constraint": constraint, "temperature": 0.75, "top_p": 0.9},
    ]
    requests = [
        request(prompt(length, length), seed, want_ref=True, **option)
        for length in (1, 13, 30)
        for option in options
        for seed in range(2)
    ]
    model = plain_model
    if with_adapter:
        adapter = make_adapter(bench.policy)
        bench.publish_and_use(adapter)
        model = peft_model(bench, adapter, plain_model)

    completions = bench.engine.generate(requests)

    moved = []
    for completion in completions:
        with torch.no_grad():
            expected = plain_logprobs(model, completion).numpy()
            if isinstance(model, PeftModel):
                with model.disable_adapter():
                    reference = plain_logprobs(model, completion).numpy()
            else:
                reference = expected
        assert completion.policy_version == int(with_adapter)
        assert np.abs(completion.sampling_logprobs - expected).max() < 1e-4
        assert completion.ref_logprobs is not None
        assert completion.ref_logprobs.dtype == np.float32
        assert np.abs(completion.ref_logprobs - reference).max() < 1e-4
        moved.append(np.abs(expected - reference).max())
    assert (max(moved) > 0.1) == with_adapter


def test_bfloat16_weights_sample_from_almost_the_same_distribution(
    model_folder: Path, make_adapter: MakeAdapter, tmp_path: Path, plain_model: nn.Module, plain_logprobs: PlainLogprobs
) -> None:
    policy = load_policy(ModelConfig(name=str(model_folder), device="cpu", dtype="bfloat16"))
    store = AdapterStore(tmp_path / "adapters")
    bench = Bench(policy, store, TorchEngine(policy, STOP_ID, LoRACache(store, 1 << 20, 2), "run"))
    adapter = make_adapter(policy, targets=("q_proj", "down_proj"), std=0.05)
    bench.publish_and_use(adapter)
    requests = [request(prompt(length, length), seed, want_ref=True) for length in (5, 90) for seed in range(3)]

    completions = bench.engine.generate(requests)

    model = peft_model(bench, adapter, plain_model)
    for completion in completions:
        with torch.no_grad():
            expected = plain_logprobs(model, completion).numpy()
        assert np.abs(completion.sampling_logprobs - expected).max() < 0.1


def test_the_reference_of_version_0_is_the_policy_itself(make_bench: MakeBench) -> None:
    completions = make_bench().engine.generate(random_requests(np.random.default_rng(1), 4, want_ref=True))

    for completion in completions:
        assert completion.ref_logprobs is not None
        assert completion.ref_logprobs.tolist() == completion.sampling_logprobs.tolist()


def test_reference_logprobs_come_only_where_they_are_wanted(make_bench: MakeBench, make_adapter: MakeAdapter) -> None:
    bench = make_bench()
    wanted = [True, False, True]
    requests = [request(prompt(0, 5), seed, want_ref=want) for seed, want in enumerate(wanted)]
    for number in (0, 1):
        if number:
            bench.publish_and_use(make_adapter(bench.policy))
        completions = bench.engine.generate(requests)
        assert [completion.ref_logprobs is not None for completion in completions] == wanted


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_a_completion_does_not_depend_on_who_shares_the_batch(seed: int, native: bool, make_bench: MakeBench) -> None:
    requests = random_requests(np.random.default_rng(seed), 7)
    assert len(requests) > 7
    bench = make_bench(native=native)

    together = bench.engine.generate(requests)
    alone = [bench.engine.generate([item])[0] for item in requests]
    backwards = bench.engine.generate(requests[::-1])[::-1]
    in_small_batches = make_bench(max_batch_sequences=3, prefill_tokens=16, native=native).engine.generate(requests)

    for item, reference in zip(requests, together, strict=True):
        assert np.array_equal(item.prompt_ids, reference.prompt_ids)
        assert reference.temperature == item.sampling.temperature
    for other in (alone, backwards, in_small_batches):
        for one, reference in zip(other, together, strict=True):
            assert_same(one, reference)


def test_the_seed_decides(make_bench: MakeBench) -> None:
    bench = make_bench()
    requests = [request(prompt(0, 9), seed) for seed in (5, 5, 6, 2**64 - 1)]

    first, again, other, large = bench.engine.generate(requests)

    assert_same(first, again)
    assert_same(first, make_bench().engine.generate(requests[:1])[0])
    assert first.completion_ids.tolist() != other.completion_ids.tolist() != large.completion_ids.tolist()


def test_first_tokens_come_as_often_as_the_model_says(make_bench: MakeBench, plain_model: nn.Module) -> None:
    prompt_ids, num = prompt(0, 6), 4000
    with torch.no_grad():
        ids = torch.from_numpy(prompt_ids.astype(np.int64))[None]
        expected = plain_model(input_ids=ids).logits[0, -1].double().softmax(-1).numpy() * num

    completions = make_bench().engine.generate([request(prompt_ids, seed, max_tokens=1) for seed in range(num)])

    counts = np.bincount([completion.completion_ids[0] for completion in completions], minlength=len(expected))
    is_common = expected >= 5
    observed = [*counts[is_common], counts[~is_common].sum()]
    assert len(observed) > 20
    assert chisquare(observed, [*expected[is_common], expected[~is_common].sum()]).pvalue > 1e-6


def test_second_tokens_follow_the_first_as_often_as_the_model_says(make_bench: MakeBench) -> None:
    """Cumulative probabilities of sampled tokens are uniform at every position only if draws are independent."""
    bench = make_bench()
    constraint = LineConstraint((((1, 9), (2, 9)), ((3, 9), (4, 9))))
    completions = bench.engine.generate([request(prompt(0, 6), seed, constraint=constraint) for seed in range(4000)])

    counts: dict[tuple[int, int], int] = {}
    exact: dict[tuple[int, int], float] = {}
    for completion in completions:
        pair = (int(completion.completion_ids[0]), int(completion.completion_ids[2]))
        counts[pair] = counts.get(pair, 0) + 1
        exact[pair] = float(np.exp(completion.sampling_logprobs.sum(dtype=np.float64)))
    pairs = sorted(exact)

    assert len(pairs) == 4
    assert sum(exact.values()) == pytest.approx(1, abs=1e-5)
    expected = np.array([exact[pair] for pair in pairs])
    assert chisquare([counts[pair] for pair in pairs], expected / expected.sum() * 4000).pvalue > 1e-6


def test_the_constraint_is_recorded_exactly(make_bench: MakeBench) -> None:
    lines = ((11, 12, 7), (11, 13, 7), (14, 7))
    constraint = LineConstraint((lines, lines), distinct=True)

    completions = make_bench().engine.generate(
        [request(prompt(0, 8), seed, constraint=constraint, max_tokens=1) for seed in range(20)]
    )

    assert len({tuple(completion.completion_ids.tolist()) for completion in completions}) > 3
    for completion in completions:
        ids = tuple(completion.completion_ids.tolist())
        end = ids.index(7) + 1
        first, second = ids[:end], ids[end:]
        assert {first, second} <= set(lines)
        assert first != second
        expected = []
        for line, offered in ((first, lines), (second, tuple(item for item in lines if item != first))):
            for depth in range(len(line)):
                expected.append(sorted({item[depth] for item in offered if item[:depth] == line[:depth]}))
        assert completion.allowed_ids is not None
        assert [completion.allowed_ids[index].tolist() for index in range(len(ids))] == expected
        assert completion.completion_mask.tolist() == [len(allowed) > 1 for allowed in expected]
        assert completion.sampling_logprobs[~completion.completion_mask].tolist() == [0.0] * sum(
            len(allowed) == 1 for allowed in expected
        )
        assert (completion.sampling_logprobs[completion.completion_mask] < 0).all()
        assert completion.finish_reason == "stop"


def test_a_completion_without_a_choice_is_forced_throughout(make_bench: MakeBench) -> None:
    bench = make_bench()
    (completion,) = bench.engine.generate(
        [request(prompt(0, 5), constraint=LineConstraint((((1, 2, 3),), ((4, 5),))), want_ref=True)]
    )

    assert completion.completion_ids.tolist() == [1, 2, 3, 4, 5]
    assert not completion.completion_mask.any()
    assert completion.sampling_logprobs.tolist() == [0.0] * 5


def test_a_free_completion_ends_with_the_stop_token_or_the_budget(make_bench: MakeBench) -> None:
    completions = make_bench(stop_id=50).engine.generate(
        [request(prompt(0, 6), seed, temperature=1.5, max_tokens=40) for seed in range(60)]
    )

    reasons = {completion.finish_reason for completion in completions}
    assert reasons == {"stop", "length"}
    for completion in completions:
        ids = completion.completion_ids.tolist()
        assert completion.allowed_ids is None
        assert completion.completion_mask.all()
        assert 50 not in ids[:-1]
        assert completion.finish_reason == ("stop" if ids[-1] == 50 else "length")
        assert completion.finish_reason == "stop" or len(ids) == 40


def test_a_stop_token_inside_a_constraint_does_not_end_it(make_bench: MakeBench) -> None:
    (completion,) = make_bench(stop_id=2).engine.generate(
        [request(prompt(0, 5), constraint=LineConstraint((((1, 2, 3),),)))]
    )

    assert completion.completion_ids.tolist() == [1, 2, 3]


def test_counters_are_exact_and_a_shared_prompt_counts_once(make_bench: MakeBench) -> None:
    bench = make_bench(stop_id=NO_STOP)
    long, short = prompt(0, 30), prompt(1, 4)
    forced = LineConstraint((((1, 2, 3),),))
    bench.engine.generate([request(ids, seed, max_tokens=5) for seed in range(3) for ids in (long, short)])
    counters = bench.engine.counters

    assert counters.num_requests == 6
    assert counters.num_prefill_tokens == 34
    assert counters.num_completion_tokens == 30
    assert counters.num_decode_steps == 4  # one cohort; the first token comes from the prompt
    assert counters.num_adapter_swaps == 0
    bench.engine.generate([request(short, constraint=forced)])
    assert bench.engine.counters - counters == EngineCounters(
        num_requests=1, num_completion_tokens=3, num_cached_tokens=4, num_forced_tokens=3
    )
    assert bench.engine.generate([]) == []


def test_finished_rows_leave_the_batch_without_a_trace(make_bench: MakeBench) -> None:
    """Most rows end early, so the batch is closed up several times; what is left goes on as if alone."""
    bench = make_bench(stop_id=NO_STOP)
    budgets = [1, 2, 2, 3, 30, 4, 25, 1]
    requests = [
        request(prompt(index, 3 + 70 * (index % 3)), seed, max_tokens=budget if seed else 1)
        for index, budget in enumerate(budgets)
        for seed in range(2)
    ]

    together = bench.engine.generate(requests)

    assert bench.engine.counters.num_decode_steps == 29
    for item, completion in zip(requests, together, strict=True):
        assert len(completion.completion_ids) == item.sampling.max_tokens
        assert_same(completion, make_bench(stop_id=NO_STOP).engine.generate([item])[0])


@pytest.mark.parametrize("target", TARGETS)
def test_an_adapter_on_any_module_reaches_the_sampler(
    target: str,
    make_bench: MakeBench,
    make_adapter: MakeAdapter,
    plain_model: nn.Module,
    plain_logprobs: PlainLogprobs,
) -> None:
    """The log-probabilities shift, and shift as PEFT's do."""
    bench = make_bench()
    adapter = make_adapter(bench.policy, targets=(target,), std=0.2)
    (before,) = bench.engine.generate([request(prompt(0, 10))])
    bench.publish_and_use(adapter)
    (after,) = bench.engine.generate([request(prompt(0, 10), want_ref=True)])

    with torch.no_grad():
        unchanged = plain_logprobs(plain_model, after).numpy()
        expected = plain_logprobs(peft_model(bench, adapter, plain_model), after).numpy()
    assert after.ref_logprobs is not None
    assert np.abs(after.sampling_logprobs - expected).max() < 1e-4
    assert np.abs(after.ref_logprobs - unchanged).max() < 1e-4
    assert np.abs(expected - unchanged).max() > 1e-2
    assert before.policy_version == 0
    assert after.policy_version == 1


def test_versions_change_both_ways_and_the_base_comes_back_bit_for_bit(
    make_bench: MakeBench, make_adapter: MakeAdapter
) -> None:
    bench = make_bench()
    requests = random_requests(np.random.default_rng(2), 4)
    original = {name: value.clone() for name, value in bench.policy.model.state_dict().items()}
    bench.store.publish(make_adapter(bench.policy, number=1))
    bench.store.publish(make_adapter(bench.policy, number=2, targets=("o_proj",), seed=1))

    swaps, results = [], []
    for number in (0, 1, 1, 2, 1, 0):
        swaps.append(bench.engine.use_version(number))
        assert bench.engine.policy_version == number
        results.append([completion.sampling_logprobs.tobytes() for completion in bench.engine.generate(requests)])

    assert results[0] == results[5]
    assert results[1] == results[2] == results[4]
    assert results[0] != results[1] != results[3]
    assert [swap.cache_hit for swap in swaps] == [True, False, True, False, True, True]
    assert bench.engine.counters.num_adapter_swaps == 3
    for name, value in bench.policy.model.state_dict().items():
        assert torch.equal(value, original[name]), name


def test_reference_scoring_leaves_the_adapter_in_use(make_bench: MakeBench, make_adapter: MakeAdapter) -> None:
    bench = make_bench()
    bench.publish_and_use(make_adapter(bench.policy))
    item = request(prompt(0, 8), want_ref=True)

    first, again = (bench.engine.generate([item])[0] for _ in range(2))

    assert first.sampling_logprobs.tobytes() == again.sampling_logprobs.tobytes()
    assert first.ref_logprobs is not None
    assert np.abs(first.ref_logprobs - first.sampling_logprobs).max() > 0.01


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        (request(np.zeros(0, dtype=np.int32)), "prompt of 0 tokens"),
        (request(prompt(0, 2040), max_tokens=9), "prompt of 2040 tokens and up to 9 to generate.*context is 2048"),
    ],
)
def test_a_bad_prompt_costs_only_its_own_request(bad: GenerationRequest, match: str, make_bench: MakeBench) -> None:
    bench = make_bench()
    good = request(prompt(0, 4))
    expected = make_bench().engine.generate([good])[0]
    with pytest.raises(PromptError, match=match):
        bench.engine.generate([good, bad])

    first, error, second = run_requests(bench.engine, [good, bad, good])
    assert isinstance(error, PromptError)
    for result in (first, second):
        assert isinstance(result, Completion)
        assert_same(result, expected)
    assert bench.engine.counters.num_failed == 2


def test_a_prompt_that_just_fits_runs(make_bench: MakeBench) -> None:
    (completion,) = make_bench(stop_id=NO_STOP).engine.generate([request(prompt(0, 2038), max_tokens=10)])
    assert len(completion.completion_ids) == 10


def test_an_adapter_that_cannot_be_used_changes_nothing(make_bench: MakeBench, make_adapter: MakeAdapter) -> None:
    from dataclasses import replace

    bench = make_bench()
    fitting = make_adapter(bench.policy)
    bench.publish_and_use(fitting)
    item = request(prompt(0, 8))
    (reference,) = bench.engine.generate([item])
    version = fitting.version
    name = next(iter(fitting.tensors)).removesuffix(".lora_A.weight")
    renamed = {key.replace(name, "model.layers.9.mlp.none"): value for key, value in fitting.tensors.items()}
    wide = dict(fitting.tensors)
    wide[f"{name}.lora_A.weight"] = torch.zeros(4, 65)
    bench.store.publish(replace(fitting, version=replace(version, number=2), base_fingerprint="another"))
    bench.store.publish(replace(fitting, version=replace(version, number=3), tensors=renamed))
    bench.store.publish(replace(fitting, version=replace(version, number=4), tensors=wide))
    damaged = bench.store.publish(replace(fitting, version=replace(version, number=5), alpha=3.0))
    (damaged / "adapter_model.safetensors").write_bytes(b"damaged")

    for number, error, match in [
        (9, AdapterNotFoundError, "run-v000009: not published"),
        (2, AdapterError, "run-v000002 was trained on base model another"),
        (3, AdapterError, r"no linear module 'model\.layers\.9\.mlp\.none'"),
        (4, AdapterError, "has shape .*, the model"),
        (5, AdapterCorruptError, "run-v000005"),
    ]:
        with pytest.raises(error, match=match) as raised:
            bench.engine.use_version(number)
        assert "\n" not in str(raised.value)
        assert bench.engine.policy_version == 1
        (now,) = bench.engine.generate([item])
        assert now.sampling_logprobs.tobytes() == reference.sampling_logprobs.tobytes()
    assert bench.engine.use_version(0).policy_version == 0
