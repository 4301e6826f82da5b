"""The systems under test: this trainer with shared prompts, the same with padded rows, and TRL's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from bench.rollout_arms.arm import Arm, Setup, Workload
from grpo_core.config import ModelConfig
from pytest_grpo.measuring.sampling.clock import now
from pytest_grpo.systems.load import load_system
from pytest_grpo.systems.protocol import GrpoSystem, SystemSettings, TrainBatch, TrainStep

SHARED, PADDED, TRL = "shared", "padded", "trl"
LORA_RANK, LORA_ALPHA, LORA_TARGETS = 8, 16.0, ("q_proj", "v_proj")
LARGEST = 1 << 30  # tokens per micro-batch: every arm takes the whole batch


@dataclass(frozen=True, slots=True)
class Taken:
    """One step of one arm."""

    step: TrainStep
    seconds: float  # layout, forward, backward and optimizer
    rollout_seconds: float | None = None  # for as many tokens

    @property
    def loss_seconds(self) -> float:
        """Forward and backward."""
        return (self.step.loss_forward_ms + self.step.backward_ms) / 1e3

    @property
    def forward_over_backward(self) -> float:
        return self.step.loss_forward_ms / self.step.backward_ms

    @property
    def whole_seconds(self) -> float:
        assert self.rollout_seconds is not None
        return self.rollout_seconds + self.seconds


class TrainerArm:
    """A system that trains, and its sampler if any."""

    def __init__(self, system: GrpoSystem, num_threads: int, sampler: Arm | None = None) -> None:
        self.system = system
        self._num_threads = num_threads
        self._sampler = sampler

    def run(self, batch: TrainBatch, workload: Workload | None = None) -> Taken:
        """A rollout of ``workload``, then a step with a learning rate of 0, which leaves the policy unchanged."""
        torch.set_num_threads(self._num_threads)
        sampled = self._sampler.run(workload).seconds if self._sampler is not None and workload is not None else None
        torch.set_num_threads(self._num_threads)
        start = now()
        step = self.system.train_step(batch)
        return Taken(step, now() - start, sampled)


def model_config(preset: str) -> ModelConfig:
    return ModelConfig(name=preset, device="cpu", lora_rank=LORA_RANK, lora_alpha=LORA_ALPHA, lora_targets=LORA_TARGETS)


def load_arm_system(name: str, preset: str, folder: Path) -> GrpoSystem:
    """The system of arm ``name``."""
    settings = SystemSettings(
        home=folder / name,
        model=preset,
        lora_rank=LORA_RANK,
        lora_alpha=LORA_ALPHA,
        lora_targets=LORA_TARGETS,
        device="cpu",
        micro_batch_tokens=LARGEST,
    )
    if name == TRL:
        return load_system("trl", settings)
    return load_system("grpo_core", replace(settings, packing="shared_prefix" if name == SHARED else "padded"))


def build_arms(names: list[str], setup: Setup, with_rollouts: bool) -> dict[str, TrainerArm]:
    """Arms of equal weights, with random A and B so that no gradient is zero."""
    systems = {name: load_arm_system(name, setup.model.name, setup.folder / "systems") for name in names}
    weights = random_weights(systems[SHARED])
    for system in systems.values():
        system.load_weights(weights)
    samplers = _samplers(names, setup) if with_rollouts else {}
    return {name: TrainerArm(system, setup.num_threads, samplers.get(name)) for name, system in systems.items()}


def random_weights(system: GrpoSystem) -> Mapping[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        name: rng.normal(0.0, 0.05, values.shape).astype(np.float32)
        for name, values in sorted(system.weights().items())
    }


def _samplers(names: list[str], setup: Setup) -> dict[str, Arm]:
    from bench.rollout_arms.adapter import AdapterPublisher
    from bench.rollout_arms.torch_arm import TorchArm

    versions = AdapterPublisher(setup.folder / "adapters", setup.model)
    samplers: dict[str, Arm] = {SHARED: TorchArm(setup, versions)}
    if TRL in names:
        from bench.rollout_arms.trl_arm import TrlArm

        samplers[TRL] = TrlArm(setup, versions.publish(1 << 20))
    return samplers
