"""Trainers on small random models, and batches that the real engine sampled."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from grpo_core.types import Batch, Group, RolloutStats, Trajectory

if TYPE_CHECKING:
    from grpo_core.rollout.torch_engine.engine import TorchEngine
    from grpo_core.training.trainer import Trainer

MakeTrainer = Callable[..., "Trainer"]
MakeEngine = Callable[..., "TorchEngine"]
MakeEngineAt = Callable[..., "TorchEngine"]
SampleBatch = Callable[..., Batch]


@pytest.fixture(scope="session")
def make_trainer(model_folder: Path) -> MakeTrainer:
    from grpo_core.config import ModelConfig, TrainingConfig
    from grpo_core.model.policy import load_policy
    from grpo_core.training.trainer import Trainer

    def make(
        folder: Path = model_folder,
        *,
        rank: int = 4,
        alpha: float | None = None,
        targets: tuple[str, ...] = ("q_proj", "v_proj", "up_proj", "down_proj"),
        run: str = "run",
        num_steps: int | None = None,
        **training: object,
    ) -> Trainer:
        model = ModelConfig(
            name=str(folder), device="cpu", lora_rank=rank, lora_alpha=alpha or 2.0 * rank, lora_targets=targets
        )
        config = TrainingConfig.model_validate(training)
        return Trainer(load_policy(model), model, config, run=run, num_steps=num_steps)

    return make


@pytest.fixture(scope="session")
def make_engine_at(model_folder: Path) -> MakeEngineAt:
    """The engine reads adapters from the folder that is given first."""
    from grpo_core.config import ModelConfig
    from grpo_core.lora.cache import LoRACache
    from grpo_core.lora.store import AdapterStore
    from grpo_core.model.policy import load_policy
    from grpo_core.rollout.torch_engine.engine import TorchEngine

    def make(adapters: Path, folder: Path = model_folder) -> TorchEngine:
        cache = LoRACache(AdapterStore(adapters), max_bytes=1 << 20, max_adapters=3)
        return TorchEngine(load_policy(ModelConfig(name=str(folder), device="cpu")), (0,), cache, "run")

    return make


@pytest.fixture
def make_engine(make_engine_at: MakeEngineAt, tmp_path: Path) -> MakeEngine:
    """The engine reads adapters from ``tmp_path / "adapters"``."""
    return partial(make_engine_at, tmp_path / "adapters")


@pytest.fixture(scope="session")
def sample_batch() -> SampleBatch:
    return _sample_batch


def _sample_batch(
    engine: TorchEngine, seed: int, *, num_groups: int = 4, group_size: int = 3, want_ref: bool = True
) -> Batch:
    """Groups of random prompts and random rewards: free, constrained, and with top-p, of one or two turns."""
    from grpo_core.rollout.constraints.lines import LineConstraint
    from grpo_core.rollout.protocol import GenerationRequest, SamplingParams

    rng = np.random.default_rng(seed)
    constraint = LineConstraint((((11, 12, 7), (11, 13, 7), (14, 7)), ((15, 7), (16, 7)), ((17, 18, 7),)))
    groups = []
    for number in range(num_groups):
        turns = [
            engine.generate(
                [
                    GenerationRequest(
                        prompt_ids,
                        SamplingParams(
                            int(rng.integers(2**63)),
                            temperature=0.75,
                            top_p=0.9 if number % 4 == 1 else 1.0,
                            max_tokens=12,
                        ),
                        constraint if number % 2 else None,
                        want_ref,
                    )
                    for _ in range(group_size)
                ]
            )
            for prompt_ids in (
                rng.integers(1, 320, int(rng.integers(2, 30)), dtype=np.int32) for _ in range(1 + number % 2)
            )
        ]
        groups.append(
            Group(
                str(number),
                tuple(
                    Trajectory(str(number), "solver", tuple(turn[index] for turn in turns), float(rng.normal()))
                    for index in range(group_size)
                ),
            )
        )
    return Batch(0, engine.policy_version, tuple(groups), RolloutStats(1.0, 0, 0, 0, 0))
