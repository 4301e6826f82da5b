"""Versions with full weights, on both engines: each request runs with its own, and nothing of another is left."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from grpo_core.config import ModelConfig
from grpo_core.errors import AdapterError
from grpo_core.lora.cache import LoRACache
from grpo_core.lora.store import AdapterStore
from grpo_core.model.policy import distinct_tensors, load_policy
from grpo_core.rollout.constraints.lines import LineConstraint
from grpo_core.rollout.plain_engine.engine import PlainEngine
from grpo_core.rollout.protocol import GenerationRequest, RolloutEngine, SamplingParams
from grpo_core.rollout.torch_engine.engine import TorchEngine
from grpo_core.types import Adapter, Completion, FullWeights, PolicyVersion

STOP_ID = 0
CONSTRAINT = LineConstraint((((11, 12, 7), (11, 13, 7), (14, 7)), ((15, 7), (16, 7)), ((17, 18, 7),)))

MakeAdapter = Callable[..., Adapter]
MakeEngine = Callable[..., Any]
PlainLogprobs = Callable[[Any, Completion], Tensor]


def full_weights(folder: Path, number: int, **options: Any) -> FullWeights:
    """Every weight of the model in ``folder``, and noise of its own."""
    policy = load_policy(ModelConfig.model_validate({"name": str(folder), "device": "cpu", **options}))
    generator = torch.Generator().manual_seed(number)
    tensors = {
        name: tensor.detach() + 0.05 * torch.randn(tensor.shape, generator=generator)
        for name, tensor in distinct_tensors(policy.model).items()
    }
    config: Any = policy.model.config
    return FullWeights(PolicyVersion("run", number), policy.fingerprint, config.to_dict(), tensors)


@pytest.fixture
def store(tmp_path: Path) -> AdapterStore:
    return AdapterStore(tmp_path / "adapters")


@pytest.fixture
def make_engine(model_folder: Path, store: AdapterStore) -> MakeEngine:
    def make(kind: type, version: int = 0, folder: Path = model_folder, **options: Any) -> RolloutEngine:
        policy = load_policy(ModelConfig.model_validate({"name": str(folder), "device": "cpu", **options}))
        engine = kind(policy, (STOP_ID,), LoRACache(store, max_bytes=0, max_adapters=3), "run")
        engine.use_version(version)
        return engine

    return make


def requests(version: int | None = None, *, max_tokens: int = 12) -> list[GenerationRequest]:
    """Free and constrained ones, pairs of siblings: the same prompts every time, so that stale ones would be found."""
    rng = np.random.default_rng(0)
    prompts = [rng.integers(1, 320, size, dtype=np.int32) for size in (3, 40, 90)]
    return [
        GenerationRequest(ids, SamplingParams(seed, max_tokens=max_tokens), constraint, True, version)
        for ids in prompts
        for constraint in (None, CONSTRAINT)
        for seed in (1, 2)
    ]


def assert_same(found: list[Completion], expected: list[Completion]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.completion_ids.tolist() == other.completion_ids.tolist()
        assert one.policy_version == other.policy_version
        assert np.abs(one.sampling_logprobs - other.sampling_logprobs).max() < 1e-5
        assert one.ref_logprobs is not None
        assert other.ref_logprobs is not None
        assert np.abs(one.ref_logprobs - other.ref_logprobs).max() < 1e-5


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3", "llama"])
@pytest.mark.parametrize("kind", [TorchEngine, pytest.param(PlainEngine, marks=pytest.mark.slow)])
def test_it_samples_from_the_published_weights_and_scores_with_the_base(
    kind: type,
    architecture: str,
    model_folders: dict[str, Path],
    store: AdapterStore,
    make_engine: MakeEngine,
    load_plain: Callable[[Path], Any],
    plain_logprobs: PlainLogprobs,
) -> None:
    """Against transformers' own forward pass over the folder that was published. One swap follows the other."""
    folder = model_folders[architecture]
    base = load_plain(folder)
    published = [load_plain(store.publish(full_weights(folder, number))) for number in (1, 2)]
    engine = make_engine(kind, folder=folder)
    difference = 0.0
    for number, model in ((1, published[0]), (2, published[1]), (0, base), (2, published[1])):
        engine.use_version(number)
        for completion in engine.generate(requests()):
            assert completion.policy_version == number
            with torch.no_grad():
                expected, reference = plain_logprobs(model, completion), plain_logprobs(base, completion)
            assert np.abs(completion.sampling_logprobs - expected.numpy()).max() < 1e-4
            assert np.abs(completion.ref_logprobs - reference.numpy()).max() < 1e-4
            difference = max(difference, float((expected - reference).abs().max()))
    assert difference > 0.5  # the versions are not the base


@pytest.mark.parametrize("kind", [TorchEngine, pytest.param(PlainEngine, marks=pytest.mark.slow)])
def test_running_requests_finish_on_the_version_that_they_began_with(
    kind: type, model_folder: Path, store: AdapterStore, make_engine: MakeEngine, make_adapter: MakeAdapter
) -> None:
    """Swaps between full weights, an adapter and the base while all of them run; later ones name an old version."""
    for number in (1, 2, 4):
        store.publish(full_weights(model_folder, number))
    store.publish(make_adapter(load_policy(ModelConfig(name=str(model_folder), device="cpu")), number=3))
    expected = {number: make_engine(kind, number).generate(requests()) for number in range(5)}

    engine = make_engine(kind)
    versions: dict[int, tuple[int, int]] = {}
    results: dict[int, Any] = {}

    def submit(version: int | None) -> None:
        number = engine.policy_version if version is None else version
        for index, request in enumerate(requests(version)):
            versions[engine.submit(request)] = number, index

    def advance(num_steps: int | None = None) -> None:
        while len(results) < len(versions) and num_steps != 0:
            results.update({outcome.ticket: outcome.result for outcome in engine.step()})
            num_steps = None if num_steps is None else num_steps - 1

    for number, named in ((1, None), (2, 1), (3, 2), (4, 3), (0, 4), (1, 2)):
        engine.use_version(number)
        submit(None)
        advance(3)
        submit(named)
        advance(2)
    advance()

    assert {version for version, _ in versions.values()} == set(range(5))
    for ticket, (version, index) in versions.items():
        assert_same([results[ticket]], [expected[version][index]])


def test_a_swap_with_nothing_under_way_writes_into_the_copy_that_is_there(
    model_folder: Path, store: AdapterStore, make_engine: MakeEngine
) -> None:
    for number in (1, 2):
        store.publish(full_weights(model_folder, number))
    engine = make_engine(TorchEngine, 1)
    before = engine._versions.weights_of(1).weights
    engine.generate(requests())
    engine.use_version(2)

    after = engine._versions.weights_of(2).weights
    assert after.embedding.data_ptr() == before.embedding.data_ptr()
    assert after.embedding.data_ptr() != engine.base_weights.embedding.data_ptr()
    assert_same(engine.generate(requests()), make_engine(TorchEngine, 2).generate(requests()))


def test_the_active_version_is_not_read_again(model_folder: Path, store: AdapterStore, make_engine: MakeEngine) -> None:
    """Full weights are often larger than the cache."""
    store.publish(full_weights(model_folder, 1))
    engine = make_engine(TorchEngine, 1)
    store.prune("run", keep_last=0)

    swap = engine.use_version(1)

    assert (swap.cache_hit, swap.load_ms) == (True, 0.0)


def test_the_copy_of_an_old_version_goes_with_its_last_request(
    model_folder: Path, store: AdapterStore, make_engine: MakeEngine
) -> None:
    for number in (1, 2):
        store.publish(full_weights(model_folder, number))
    engine = make_engine(TorchEngine, 1)
    old = weakref.ref(engine._versions.weights_of(1).weights.embedding)
    tickets = [engine.submit(request) for request in requests()]
    engine.step()
    engine.use_version(2)
    gc.collect()
    assert old() is not None
    num_ended = 0
    while num_ended < len(tickets):
        num_ended += len(engine.step())
    engine.generate(requests())  # the last pass over old weights keeps them until the next pass
    gc.collect()

    assert old() is None
    assert engine._versions.weights_of(2).weights is not engine.base_weights


@pytest.mark.parametrize("kind", [TorchEngine, PlainEngine])
@pytest.mark.parametrize("damage", ["base", "shape", "missing"])
def test_weights_that_do_not_fit_leave_the_active_version(
    damage: str, kind: type, model_folder: Path, store: AdapterStore, make_engine: MakeEngine
) -> None:
    one, other = full_weights(model_folder, 1), full_weights(model_folder, 2)
    store.publish(one)
    rest = {name: tensor for name, tensor in other.tensors.items() if name != "model.norm.weight"}
    match damage:
        case "base":
            other = replace(other, base_fingerprint="other")
        case "shape":
            other = replace(other, tensors=rest | {"model.norm.weight": torch.zeros(3)})
        case _:
            other = replace(other, tensors=rest)
    store.publish(other)
    engine = make_engine(kind, 1)
    before = engine.generate(requests())

    with pytest.raises(AdapterError, match="weights run-v000002") as error:
        engine.use_version(2)

    assert "\n" not in str(error.value)
    assert engine.policy_version == 1
    assert_same(engine.generate(requests()), before)


def test_a_bfloat16_engine_rounds_the_weights_once(
    model_folder: Path, store: AdapterStore, make_engine: MakeEngine
) -> None:
    rounded = full_weights(model_folder, 1, dtype="bfloat16")
    weights = replace(full_weights(model_folder, 1), base_fingerprint=rounded.base_fingerprint)
    store.publish(weights)
    engine = make_engine(TorchEngine, 1, dtype="bfloat16")

    found = engine._versions.weights_of(1).weights.embedding
    assert torch.equal(found, weights.tensors["model.embed_tokens.weight"].to(torch.bfloat16))
