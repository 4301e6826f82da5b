"""Engines on a small random model: with an empty store, and with three versions in it. Decoders of any shape."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from grpo_core.config import ModelConfig
from grpo_core.lora.cache import LoRACache
from grpo_core.lora.store import AdapterStore
from grpo_core.model.policy import Policy, load_policy
from grpo_core.rollout.torch_engine.engine import TorchEngine
from grpo_core.rollout.torch_engine.weights.fused import DecoderWeights
from grpo_core.types import Adapter
from tests.grpo_core.rollout.torch_engine.bench import Bench
from tests.grpo_core.rollout.torch_engine.random_decoders import Build, build_decoder
from tests.grpo_core.rollout.torch_engine.sampling_requests import STOP_ID

MakeAdapter = Callable[..., Adapter]
MakeBench = Callable[..., Bench]
MakeEngine = Callable[..., TorchEngine]


@pytest.fixture
def make_bench(model_folder: Path, tmp_path: Path) -> MakeBench:
    def make(folder: Path = model_folder, *, stop_id: int = STOP_ID, **limits: int) -> Bench:
        policy = load_policy(ModelConfig(name=str(folder), device="cpu"))
        store = AdapterStore(tmp_path / "adapters")
        cache = LoRACache(store, max_bytes=1 << 20, max_adapters=3)
        return Bench(policy, store, TorchEngine(policy, (stop_id,), cache, "run", **limits))  # pyright: ignore[reportArgumentType]

    return make


@pytest.fixture
def make_engine(policy: Policy, make_adapter: MakeAdapter, tmp_path: Path) -> MakeEngine:
    """Engines on one store with versions 1 to 3."""
    store = AdapterStore(tmp_path / "adapters")
    for number, targets in ((1, ("q_proj", "v_proj")), (2, ("o_proj", "up_proj")), (3, ("k_proj", "down_proj"))):
        store.publish(make_adapter(policy, number=number, targets=targets, seed=number, std=0.2))

    def make(*, stop_id: int = 0, **limits: int | bool) -> TorchEngine:
        cache = LoRACache(store, max_bytes=1 << 20, max_adapters=3)
        return TorchEngine(policy, (stop_id,), cache, "run", **limits)  # pyright: ignore[reportArgumentType]

    return make


@pytest.fixture
def build(tmp_path: Path, model_folder: Path) -> Build:
    """Random weights of a shape."""

    def build(architecture: str = "qwen2", **shape: int) -> DecoderWeights:
        return build_decoder(tmp_path / architecture, model_folder, architecture, shape)

    return build
