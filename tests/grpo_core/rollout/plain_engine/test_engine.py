"""The plain engine against the fast one, and on an architecture that only it serves."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from grpo_core.config import ModelConfig
from grpo_core.errors import (
    AdapterError,
    AdapterNotFoundError,
    ConstraintError,
    GrpoError,
    PromptError,
    SamplingError,
)
from grpo_core.lora.cache import LoRACache
from grpo_core.lora.store import AdapterStore
from grpo_core.model.policy import load_policy
from grpo_core.rollout.constraints.lines import LineConstraint
from grpo_core.rollout.plain_engine.engine import PlainEngine
from grpo_core.rollout.protocol import GenerationRequest, RolloutEngine, SamplingParams, run_requests
from grpo_core.rollout.torch_engine.engine import TorchEngine
from grpo_core.types import Adapter, Completion, Int32
from tests.grpo_core.small_models import save_small_model

STOP_ID = 0
CONSTRAINT = LineConstraint((((11, 12, 7), (11, 13, 7), (14, 7)),) * 2, distinct=True)
FORCED_THEN_FREE = LineConstraint((((1, 2, 3, 4),), ((5, 6), (7, 6), (9, 8, 6))))
FORCED = LineConstraint((((1, 2, 3),), ((4, 5),)))
MakeAdapter = Callable[..., Adapter]
MakeEngine = Callable[..., Any]


@pytest.fixture
def store(tmp_path: Path) -> AdapterStore:
    return AdapterStore(tmp_path / "adapters")


@pytest.fixture
def make_engine(model_folder: Path, store: AdapterStore) -> MakeEngine:
    """An engine of class ``kind`` with a copy of the weights for itself."""

    def make(kind: type = PlainEngine, folder: Path = model_folder, stop_id: int = STOP_ID) -> RolloutEngine:
        policy = load_policy(ModelConfig(name=str(folder), device="cpu"), any_architecture=True)
        return kind(policy, (stop_id,), LoRACache(store, max_bytes=1 << 20, max_adapters=3), "run")

    return make


@pytest.fixture
def adapters(model_folder: Path, store: AdapterStore, make_adapter: MakeAdapter) -> list[Adapter]:
    """Two published versions, 1 and 2."""
    policy = load_policy(ModelConfig(name=str(model_folder), device="cpu"))
    versions = [make_adapter(policy, number=number, seed=number) for number in (1, 2)]
    for adapter in versions:
        store.publish(adapter)
    return versions


def prompt(seed: int, length: int) -> Int32:
    return np.random.default_rng(seed).integers(1, 320, length, dtype=np.int32)


def ask(prompt_ids: Int32, seed: int = 0, *, max_tokens: int = 8, **options: Any) -> GenerationRequest:
    request = {key: options.pop(key) for key in ("constraint", "want_ref_logprobs", "policy_version") if key in options}
    return GenerationRequest(prompt_ids, SamplingParams(seed, max_tokens=max_tokens, **options), **request)


def mixed_requests() -> list[GenerationRequest]:
    """Every way to narrow the distribution, in groups of two that share a prompt."""
    options: list[dict[str, Any]] = [
        {},
        {"temperature": 0.7, "top_p": 0.9},
        {"top_k": 5},
        {"top_k": 1},
        {"min_p": 0.05, "temperature": 1.5},
        {"top_k": 30, "min_p": 0.01, "top_p": 0.8},
        {"constraint": CONSTRAINT},
        {"constraint": CONSTRAINT, "temperature": 0.6, "top_p": 0.7},
        {"constraint": FORCED},
    ]
    return [
        ask(prompt(index, 3 + 5 * index), seed, max_tokens=1 + 3 * index, want_ref_logprobs=True, **option)
        for index, option in enumerate(options)
        for seed in (0, 2**64 - 1)
    ]


def assert_same(one: Completion, other: Completion) -> None:
    assert one.completion_ids.tolist() == other.completion_ids.tolist()
    assert one.completion_mask.tolist() == other.completion_mask.tolist()
    assert (one.finish_reason, one.policy_version) == (other.finish_reason, other.policy_version)
    assert np.abs(one.sampling_logprobs - other.sampling_logprobs).max() < 1e-5
    assert (one.allowed_ids is None) == (other.allowed_ids is None)
    if one.allowed_ids is not None and other.allowed_ids is not None:
        assert one.allowed_ids.ids.tolist() == other.allowed_ids.ids.tolist()
        assert one.allowed_ids.offsets.tolist() == other.allowed_ids.offsets.tolist()
    assert one.ref_logprobs is not None
    assert other.ref_logprobs is not None
    assert np.abs(one.ref_logprobs - other.ref_logprobs).max() < 1e-5


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3", "llama"])
@pytest.mark.parametrize("with_adapter", [False, True])
def test_it_is_the_reference_of_the_torch_engine(
    architecture: str,
    with_adapter: bool,
    model_folders: dict[str, Path],
    store: AdapterStore,
    make_engine: MakeEngine,
    make_adapter: MakeAdapter,
) -> None:
    folder = model_folders[architecture]
    store.publish(make_adapter(load_policy(ModelConfig(name=str(folder), device="cpu"))))
    results = []
    for kind in (PlainEngine, TorchEngine):
        engine = make_engine(kind, folder)
        engine.use_version(int(with_adapter))
        results.append((engine.generate(mixed_requests()), engine.counters))

    (plain, counters), (fast, others) = results
    for one, other in zip(plain, fast, strict=True):
        assert_same(one, other)
    assert counters.num_requests == others.num_requests == len(plain)
    assert counters.num_completion_tokens == others.num_completion_tokens
    assert counters.num_adapter_swaps == others.num_adapter_swaps == int(with_adapter)


def test_requests_under_way_keep_their_version(make_engine: MakeEngine, adapters: list[Adapter]) -> None:
    item = ask(prompt(0, 9), max_tokens=12, ignore_stop=True, want_ref_logprobs=True)
    expected = []
    for number in (0, 1, 2):
        engine = make_engine()
        engine.use_version(number)
        expected += engine.generate([item])
    assert len({tuple(completion.completion_ids.tolist()) for completion in expected}) == 3

    engine = make_engine()
    engine.use_version(1)
    tickets = {engine.submit(item): 1}
    assert engine.step() == []
    engine.use_version(2)
    tickets[engine.submit(item)] = 2
    tickets[engine.submit(replace(item, policy_version=0))] = 0
    outcomes = []
    while len(outcomes) < 3:
        outcomes += engine.step()

    assert engine.policy_version == 2
    assert engine.counters.num_adapter_swaps == 2
    for outcome in outcomes:
        assert_same(outcome.result, expected[tickets[outcome.ticket]])
    assert engine.step() == []


def test_counters_are_exact(make_engine: MakeEngine) -> None:
    engine = make_engine(stop_id=-1)
    engine.generate([ask(prompt(0, 30), max_tokens=5), ask(prompt(0, 30), max_tokens=1)])
    counters = engine.counters
    assert (counters.num_requests, counters.num_completion_tokens, counters.num_forced_tokens) == (2, 6, 0)
    assert (counters.num_prefill_tokens, counters.num_decode_steps) == (60, 4)

    engine.generate([ask(prompt(0, 30), constraint=LineConstraint((((1, 2, 3),), ((4, 9), (5, 9)))))])
    added = engine.counters - counters
    assert (added.num_completion_tokens, added.num_forced_tokens) == (5, 4)
    assert (added.num_prefill_tokens, added.num_decode_steps) == (30, 0)


def test_a_cancelled_request_is_forgotten(make_engine: MakeEngine) -> None:
    engine = make_engine(stop_id=-1)
    begun, waiting, kept = (engine.submit(ask(prompt(seed, 5), max_tokens=3)) for seed in range(3))
    assert engine.step() == []
    engine.cancel(begun)
    engine.cancel(waiting)
    engine.cancel(begun)
    engine.cancel(99)

    outcomes = [outcome for _ in range(3) for outcome in engine.step()]
    assert [outcome.ticket for outcome in outcomes] == [kept]
    assert engine.counters.num_cancelled == 2
    assert engine.step() == []


def test_stop_ids_end_a_completion_unless_they_are_ignored(make_engine: MakeEngine) -> None:
    prompt_ids = prompt(3, 6)
    (free,) = make_engine(stop_id=-1).generate([ask(prompt_ids, max_tokens=10)])
    third = int(free.completion_ids[2])
    assert third not in free.completion_ids[:2]

    by_engine, by_request, ignored = (
        *make_engine(stop_id=third).generate([ask(prompt_ids, max_tokens=10)]),
        *make_engine(stop_id=-1).generate([ask(prompt_ids, max_tokens=10, stop_ids=(third, 1))]),
        *make_engine(stop_id=third).generate([ask(prompt_ids, max_tokens=10, ignore_stop=True)]),
    )

    for stopped in (by_engine, by_request):
        assert stopped.completion_ids.tolist() == free.completion_ids[:3].tolist()
        assert stopped.finish_reason == "stop"
    assert ignored.completion_ids.tolist() == free.completion_ids.tolist()
    assert ignored.finish_reason == "length"


def test_a_bad_request_ends_with_its_own_error(
    make_engine: MakeEngine, adapters: list[Adapter], store: AdapterStore
) -> None:
    store.publish(replace(adapters[0], version=replace(adapters[0].version, number=3), base_fingerprint="another"))
    prompt_ids = prompt(0, 5)
    runs_out = LineConstraint((((1, 2),), ((1, 2),)), distinct=True)
    requests: list[tuple[GenerationRequest, type[GrpoError] | None]] = [
        (ask(prompt_ids), None),
        (ask(prompt_ids[:0]), PromptError),
        (ask(prompt_ids, max_tokens=4000), PromptError),
        (ask(prompt_ids, temperature=0.0), SamplingError),
        (ask(prompt_ids, constraint=runs_out), ConstraintError),
        (ask(prompt_ids, policy_version=9), AdapterNotFoundError),
        (ask(prompt_ids, policy_version=3), AdapterError),
        (ask(prompt_ids, policy_version=1), None),
    ]
    engine = make_engine()

    results = run_requests(engine, [request for request, _ in requests])

    for result, (_, error) in zip(results, requests, strict=True):
        assert type(result) is (Completion if error is None else error)
    assert (engine.counters.num_failed, engine.counters.num_requests) == (6, 8)
    with pytest.raises(PromptError):
        engine.generate([ask(prompt_ids), ask(prompt_ids[:0])])
    assert engine.generate([ask(prompt_ids)])


def test_logits_that_are_no_numbers_are_the_requests_own_error(model_folder: Path, store: AdapterStore) -> None:
    policy = load_policy(ModelConfig(name=str(model_folder), device="cpu"))
    engine = PlainEngine(policy, (STOP_ID,), LoRACache(store, max_bytes=1 << 20, max_adapters=3), "run")
    embedding = policy.model.get_parameter("model.embed_tokens.weight")
    kept = embedding.data[50].clone()
    embedding.data[50] = float("nan")
    with pytest.raises(SamplingError, match="non-finite"):
        engine.generate([ask(np.array([50], dtype=np.int32))])
    embedding.data[50] = kept
    assert engine.generate([ask(np.array([50], dtype=np.int32))])


@pytest.fixture(scope="module")
def other_folders(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Random models that the fast engine does not drive: other parts, and a window shorter than the prompts."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    sizes: dict[str, dict[str, int]] = {"gpt_neox": {}, "mistral": {"num_key_value_heads": 2, "sliding_window": 8}}
    folders = {}
    for architecture, extra in sizes.items():
        config = AutoConfig.for_model(
            architecture,
            vocab_size=384,
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=256,
            initializer_range=0.1,
            bos_token_id=None,
            eos_token_id=0,
            pad_token_id=0,
            **extra,
        )
        folder = folders[architecture] = tmp_path_factory.mktemp(architecture)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        AutoTokenizer.from_pretrained(model_folder).save_pretrained(folder)
    return folders


@pytest.mark.parametrize(("architecture", "target"), [("gpt_neox", "query_key_value"), ("mistral", "q_proj")])
def test_other_architectures_sample_what_transformers_computes(
    architecture: str,
    target: str,
    other_folders: dict[str, Path],
    store: AdapterStore,
    make_engine: MakeEngine,
    make_adapter: MakeAdapter,
    load_plain: Callable[[Path], Any],
    plain_logprobs: Callable[..., torch.Tensor],
    caplog: pytest.LogCaptureFixture,
) -> None:
    from peft import PeftModel

    folder = other_folders[architecture]
    policy = load_policy(ModelConfig(name=str(folder), device="cpu"), any_architecture=True)
    adapter = make_adapter(policy, targets=(target,), std=0.3)
    store.publish(adapter)
    model = PeftModel.from_pretrained(load_plain(folder), store.folder_of(adapter.version)).eval()
    engine = make_engine(folder=folder)
    engine.use_version(1)
    greedy = ask(prompt(0, 20), max_tokens=12, top_k=1)
    sampled = [ask(prompt(seed, 20), seed, temperature=0.8, want_ref_logprobs=True) for seed in range(3)]
    bound = [ask(prompt(9, 20), constraint=CONSTRAINT, want_ref_logprobs=True)]

    first, *others = engine.generate([greedy, *sampled, *bound])

    ids = torch.from_numpy(greedy.prompt_ids.astype(np.int64))[None]
    with torch.no_grad():
        expected = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12
        )[0, 20:]
        assert first.completion_ids.tolist() == expected.tolist()
        for completion in others:
            gap = np.abs(completion.sampling_logprobs - plain_logprobs(model, completion).numpy()).max()
            assert gap < 1e-4
            with model.disable_adapter():
                reference = plain_logprobs(model, completion).numpy()
            assert completion.ref_logprobs is not None
            assert np.abs(completion.ref_logprobs - reference).max() < 1e-4
            assert np.abs(completion.ref_logprobs - completion.sampling_logprobs).max() > 1e-3


def test_it_says_once_that_an_architecture_is_slow(
    other_folders: dict[str, Path], make_engine: MakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "grpo_core.rollout"):
        engine = make_engine(folder=other_folders["gpt_neox"])
        engine.generate([ask(prompt(0, 4)), ask(prompt(1, 4))])
        make_engine()
    (record,) = caplog.records
    assert f"model {other_folders['gpt_neox']}: architecture gpt_neox runs on the plain engine" in record.message


@pytest.mark.parametrize(
    ("architecture", "way", "settings"),
    [
        ("qwen2", "runs", {}),
        ("mamba", "tokens", {"state_size": 4}),  # with a state it reads one token at a time
        ("minimax", "runs", {"num_local_experts": 4}),  # it takes a cache of its own kind only
    ],
)
def test_every_way_to_keep_what_was_read_gives_the_models_own_log_probabilities(
    architecture: str, way: str, settings: dict[str, Any], store: AdapterStore, tmp_path: Path, plain_logprobs: Any
) -> None:
    save_small_model(architecture, tmp_path / "model", **settings)
    policy = load_policy(ModelConfig(name=str(tmp_path / "model"), device="cpu"), any_architecture=True)
    engine = PlainEngine(policy, (STOP_ID,), LoRACache(store, 1 << 20, 1), "run")

    assert engine.reading == way
    for request in (ask(prompt(0, 20), ignore_stop=True), ask(prompt(1, 9), constraint=FORCED_THEN_FREE)):
        (completion,) = engine.generate([request])
        with torch.no_grad():
            expected = plain_logprobs(policy.model, completion).numpy()
        assert np.abs(completion.sampling_logprobs - expected).max() < 2e-5
