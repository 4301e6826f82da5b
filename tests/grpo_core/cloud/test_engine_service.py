"""Callers of one service share its batch, its cache and its looks at the volume."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grpo_core.cloud.engine_service import EngineService
from grpo_core.config import GrpoConfig, build_config
from grpo_core.errors import AdapterNotFoundError, ConfigError, GrpoError
from grpo_core.home import Home
from grpo_core.lora.store import AdapterStore
from grpo_core.rollout.protocol import GenerationRequest, SamplingParams
from grpo_core.types import Adapter, Completion, PolicyVersion

PROMPT = np.array([40, 41, 42], np.int32)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "data", tmp_path / "traces")


@pytest.fixture
def config(model_folder: Path) -> GrpoConfig:
    return build_config({"run": "demo", "model": {"name": str(model_folder), "device": "cpu"}})


@pytest.fixture
def adapter(config: GrpoConfig) -> Adapter:
    """Random weights that change what is sampled."""
    import torch

    from grpo_core.model.policy import load_policy
    from grpo_core.training.trainer import Trainer

    trainer = Trainer(load_policy(config.model), config.model, config.training, run="demo", seed=0)
    made = trainer.weights()
    assert isinstance(made, Adapter)
    generator = torch.Generator().manual_seed(0)
    return replace(made, tensors={n: torch.randn(t.shape, generator=generator) for n, t in made.tensors.items()})


def request(seed: int, max_tokens: int = 12) -> GenerationRequest:
    return GenerationRequest(PROMPT, SamplingParams(seed, max_tokens=max_tokens, ignore_stop=True))


def run(service: EngineService, what: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    async def run_and_close() -> Any:
        try:
            return await what()
        finally:
            await service.close()

    return asyncio.run(run_and_close())


def test_calls_that_overlap_decode_as_one_batch(config: GrpoConfig, home: Home, adapter: Adapter):
    AdapterStore(home.adapters).publish(replace(adapter, version=PolicyVersion("demo", 1)))
    service = EngineService(config, home, lambda: None, "torch")

    async def ask() -> tuple[list[Any], int, list[Any]]:
        before = service._engine.counters.num_decode_steps
        together = await asyncio.gather(*(service.sample([request(seed)], seed % 2) for seed in range(6)))
        num_steps = service._engine.counters.num_decode_steps - before
        alone = [await service.sample([request(seed)], seed % 2) for seed in range(6)]
        return together, num_steps, alone

    together, num_steps, alone = run(service, ask)

    assert num_steps <= 2 * 12  # six calls after each other take 66
    for (mine,), (other,), version in zip(together, alone, [0, 1] * 3, strict=True):
        assert mine.completion_ids.tolist() == other.completion_ids.tolist()
        assert mine.policy_version == version
    assert together[0][0].completion_ids.tolist() != together[1][0].completion_ids.tolist()


def test_the_volume_is_looked_at_when_a_version_is_prepared_and_not_for_each_sample(
    config: GrpoConfig, home: Home, adapter: Adapter
):
    store = AdapterStore(home.adapters)
    reloads: list[int] = []

    def reload() -> None:
        reloads.append(1)
        store.publish(replace(adapter, version=PolicyVersion("demo", 4)))  # what another container has committed

    service = EngineService(config, home, reload, "torch")

    async def ask() -> None:
        assert (await service.prepare(0)).swap.cache_hit
        assert reloads == []
        first = await service.prepare(4)
        again = await service.prepare(4)
        assert (first.swap.cache_hit, again.swap.cache_hit) == (False, True)
        assert first.model_fingerprint
        assert len(reloads) == 2
        store.discard_after("demo", -1)  # pruned meanwhile: it is in memory
        (completion,) = await service.sample([request(1)], 4)
        assert isinstance(completion, Completion)
        assert len(reloads) == 2
        assert await service.latest() == 4
        assert len(reloads) == 3

    run(service, ask)


class Volume:
    """What one machine commits is seen by another one when it reloads."""

    def __init__(self, folder: Path, seen: Path) -> None:
        self.store = AdapterStore(folder)
        self.num_reloads = 0
        self._folder = folder
        self._seen = seen

    def reload(self) -> None:
        self.num_reloads += 1
        shutil.rmtree(self._seen, ignore_errors=True)
        shutil.copytree(self._folder, self._seen)


def test_a_run_that_starts_again_elsewhere_is_served_anew(
    config: GrpoConfig, home: Home, adapter: Adapter, tmp_path: Path
):
    """Its first version has the number of another one that this container has in memory and on its disk."""
    volume = Volume(tmp_path / "volume", home.adapters)
    first = replace(adapter, version=PolicyVersion("demo", 1))
    second = replace(first, tensors={name: -3 * tensor for name, tensor in first.tensors.items()})
    volume.store.publish(first)
    service = EngineService(config, home, volume.reload, "torch")

    async def answer() -> list[int]:
        (told,) = await service.generate(["Q: 1 + 2 ="], 1, 12, 1.0, 1.0, 0)
        return told["completion_ids"]

    async def ask() -> tuple[list[int], list[int], list[int]]:
        before = await answer()
        volume.store.discard_after("demo", -1)
        volume.store.publish(second)
        after = await answer()
        fresh = EngineService(config, home, volume.reload, "torch")
        (told,) = await fresh.generate(["Q: 1 + 2 ="], 1, 12, 1.0, 1.0, 0)
        await fresh.close()
        return before, after, told["completion_ids"]

    before, after, fresh = run(service, ask)

    assert after == fresh != before


def test_calls_that_overlap_share_their_looks_at_the_volume(
    config: GrpoConfig, home: Home, adapter: Adapter, tmp_path: Path
):
    volume = Volume(tmp_path / "volume", home.adapters)
    volume.store.publish(replace(adapter, version=PolicyVersion("demo", 1)))
    service = EngineService(config, home, volume.reload, "torch")

    async def ask() -> None:
        await asyncio.gather(*(service.prepare(1) for _ in range(20)))

    run(service, ask)

    assert volume.num_reloads <= 2


def test_a_request_s_own_error_is_its_own(config: GrpoConfig, home: Home):
    service = EngineService(config, home, lambda: None, "torch")
    empty = GenerationRequest(np.array([], np.int32), SamplingParams(0, max_tokens=2))

    good, bad = run(service, lambda: service.sample([request(0), empty], 0))

    assert isinstance(good, Completion)
    assert isinstance(bad, GrpoError)


def test_a_version_that_was_never_published_is_named(config: GrpoConfig, home: Home):
    service = EngineService(config, home, lambda: None, "torch")

    with pytest.raises(AdapterNotFoundError, match="demo-v000007"):
        run(service, lambda: service.prepare(7))


def test_an_unknown_engine_is_refused(config: GrpoConfig, home: Home):
    with pytest.raises(ConfigError, match="engine 'sglang': allowed are auto, torch, vllm"):
        EngineService(config, home, lambda: None, "sglang")
