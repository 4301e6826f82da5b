"""Collectors on a small random model."""

from __future__ import annotations

from pathlib import Path

import pytest

from grpo_core.config import EnvironmentConfig
from grpo_core.environments import EnvironmentFactory, make_environment_factory
from grpo_core.lora.cache import LoRACache
from grpo_core.lora.store import AdapterStore
from grpo_core.model.policy import Policy
from grpo_core.model.tokenizer import Tokenizer
from grpo_core.rollout.torch_engine.engine import TorchEngine
from tests.grpo_core.rollout.play.rooms import Rooms


@pytest.fixture
def rooms(policy: Policy, tokenizer: Tokenizer, tmp_path: Path) -> Rooms:
    cache = LoRACache(AdapterStore(tmp_path / "adapters"), max_bytes=1 << 20, max_adapters=3)
    return Rooms(policy, tokenizer, TorchEngine(policy, tokenizer.stop_ids, cache, "run"))


@pytest.fixture
def arithmetic() -> EnvironmentFactory:
    return make_environment_factory(EnvironmentConfig(name="arithmetic"))
