"""Part three, ``--costs``: the time of a cache hit and of an adapter swap, and resident memory."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import psutil
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from bench.reporting.figures import Figure, Report, figure_table
from bench.rollout_arms.adapter import AdapterPublisher
from bench.rollout_arms.arm import Setup
from bench.rollout_arms.rounds import RolloutShape
from bench.rollout_arms.torch_arm import TorchArm, build_engine, kv_bytes_per_token, requests
from grpo_core.lora.store import AdapterStore
from grpo_core.model.policy import load_policy
from grpo_core.model.source import locate_model
from pytest_grpo.measuring.sampling.clock import now

PRESETS = ("tiny", "small")
NUM_SWAPS = 40
MAX_HIT_MS, MAX_SWAP_MS, MAX_MEMORY_RATIO = 1.0, 50.0, 1.2
MIB = 2**20
SMALL_SIZES = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of one process that sampled with an adapter, in bytes."""

    resident: int  # growth since before the weights were loaded
    weights: int
    kv: int  # of the distinct tokens of the largest batch

    @property
    def ratio(self) -> float:
        return self.resident / (2 * self.weights + self.kv)

    def __str__(self) -> str:
        return (
            f"{self.resident / MIB:.0f} MiB more resident than before its weights were read, after a very small model "
            f"was sampled from; twice the weights are {2 * self.weights / MIB:.0f} MiB, keys and values of the "
            f"distinct tokens {self.kv / MIB:.0f} MiB"
        )


def measure_costs(setup: Setup, shape: RolloutShape, presets: Sequence[str] = PRESETS) -> Report:
    """Swap times of the last preset, and the memory of each preset after its largest batch of ``shape``."""
    setups = {name: replace(setup, model=setup.model.model_copy(update={"name": name})) for name in presets}
    figures = _swap_figures(setups[presets[-1]])
    lines = []
    for preset, own in setups.items():
        adapters = setup.folder / f"memory-{preset}"
        AdapterPublisher(adapters, own.model).publish(1)
        # A new process has a fresh allocator and libraries.
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            memory = pool.submit(measure_memory, own, shape, adapters).result()
        ratio = memory.ratio
        figures[f"resident_memory_ratio_{preset}"] = Figure(ratio, ratio, ratio, 1, "ratio", at_most=MAX_MEMORY_RATIO)
        lines.append(f"Memory of `{preset}`: {memory}.")
    return Report((*figure_table(figures), "", *lines), figures)


def _swap_figures(setup: Setup) -> dict[str, Figure]:
    """Alternate between two cached versions."""
    torch.set_num_threads(setup.num_threads)
    versions = AdapterPublisher(setup.folder / "swaps", setup.model)
    engine = build_engine(setup, versions.store, load_policy(setup.model))
    for number in (1, 2):
        versions.publish(number)
        engine.use_version(number)
    hit_ms, swap_ms = [], []
    for place in range(NUM_SWAPS):
        start = now()
        swap = engine.use_version(1 + place % 2)
        swap_ms.append((now() - start) * 1e3)
        assert swap.cache_hit
        hit_ms.append(swap.load_ms)
    return {
        "adapter_cache_hit_ms": Figure.of(hit_ms, "ms", at_most=MAX_HIT_MS),
        "adapter_swap_ms": Figure.of(swap_ms, "ms", at_most=MAX_SWAP_MS),
    }


def measure_memory(setup: Setup, shape: RolloutShape, adapters: Path) -> Memory:
    """The memory of this process after the largest batch of ``shape``. Call it in a new process.

    It first samples from a very small model, so that code and buffers of the libraries are not counted.
    """
    torch.set_num_threads(setup.num_threads)
    _sample_from_small_copy(setup, shape)
    process = psutil.Process()
    before = process.memory_info().rss
    policy = load_policy(setup.model)
    num_weight_bytes = sum(weight.numel() * weight.element_size() for weight in policy.model.parameters())
    num_token_bytes = kv_bytes_per_token(policy)
    engine = build_engine(setup, AdapterStore(adapters), policy)
    engine.use_version(1)
    workload = replace(shape, vocab_size=policy.vocab_size).free_workload(np.random.default_rng(0), setup.max_sequences)
    engine.generate(requests(workload))
    num_tokens = sum(map(len, workload.prompts)) + workload.num_sequences * workload.num_tokens
    return Memory(
        resident=process.memory_info().rss - before,
        weights=num_weight_bytes,
        kv=num_tokens * num_token_bytes,
    )


def _sample_from_small_copy(setup: Setup, shape: RolloutShape) -> None:
    """One group, with an adapter, from a random model of the same kind with one narrow layer."""
    where = locate_model(setup.model.name)
    config = AutoConfig.from_pretrained(where)
    config.update(SMALL_SIZES)
    config.layer_types = config.layer_types[:1]
    folder = setup.folder / f"small-copy-of-{Path(where).name}"
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(where).save_pretrained(folder)
    arm_setup = replace(setup, model=setup.model.model_copy(update={"name": str(folder)}))
    arm = TorchArm(arm_setup, AdapterPublisher(folder / "adapters", arm_setup.model))
    arm.run(shape.free_workload(np.random.default_rng(0), shape.group_size))
