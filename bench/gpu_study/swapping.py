"""How long a new version takes from disk into the sampler, and one that is in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from bench.gpu_study.row import Row, Work
from bench.gpu_study.setup import config_of
from bench.rollout_arms.adapter import AdapterPublisher
from bench.rollout_arms.arm import Setup
from bench.rollout_arms.torch_arm import TorchArm

NUM_ROUNDS = 5


def measure_swapping(work: Work) -> Iterator[Row]:
    """Medians over ``NUM_ROUNDS`` versions with adapters on all linear maps."""
    setup = Setup(config_of(work).model, torch.get_num_threads(), 1, Path(work.folder))
    versions = AdapterPublisher(setup.folder / "swaps", setup.model)
    engine = TorchArm(setup, versions).engine
    cold, warm, num_bytes = [], [], 0
    for number in range(1, NUM_ROUNDS + 1):
        num_bytes = sum(path.stat().st_size for path in versions.publish(number).iterdir())
        cold.append(engine.use_version(number))
        engine.use_version(0)
        warm.append(engine.use_version(number))
    yield Row(name="adapter_mib", value=num_bytes / (1 << 20), unit="MiB")
    yield Row(name="adapter_load_ms", value=_median([swap.load_ms for swap in cold]), unit="ms", note="from disk")
    yield Row(name="adapter_cached_load_ms", value=_median([swap.load_ms for swap in warm]), unit="ms")
    yield Row(name="adapter_swap_ms", value=_median([swap.swap_ms for swap in warm]), unit="ms")


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]
