"""Checks, before anything is sent, that a container of the app will not refuse the configuration.

Some errors only the container can find: whether a model's folder is on a volume, a hub id exists, or a custom
environment can be imported there.
"""

from __future__ import annotations

from pathlib import Path

from grpo_core.cloud.gpus import GPU_VARIABLE, NO_GPU, num_gpus
from grpo_core.config import GrpoConfig, ModelConfig
from grpo_core.config.packages import package_of
from grpo_core.environments import check_environment
from grpo_core.errors import ConfigError, ModelError


def check_settings(config: GrpoConfig, gpu: str | None) -> None:
    """Check that containers with ``gpu``, a checked setting, can run ``config``.

    Raises:
        ConfigError, ModelError: as the container would say it.
    """
    check_environment(config.environment)
    if config.environment.name == "dataset":
        raise ConfigError(
            "environment.name 'dataset' does not run on Modal: its questions and rewards are not sent; train it here"
        )
    if package_of(config.environment.name) is not None:
        raise ConfigError(
            f"environment.name {config.environment.name!r} does not run on Modal: its package is not in the app's "
            "image; train it here"
        )
    _check_model(config.model.name)
    device = _check_device(config.model, gpu)
    if config.rollout.engine == "vllm" and gpu is None:
        raise ConfigError(
            f"rollout.engine 'vllm' with {GPU_VARIABLE} {NO_GPU!r}: containers without a GPU have no vLLM; name a GPU, "
            "or use 'torch'"
        )
    if config.rollout.engine == "vllm" and device != "cuda":
        raise ConfigError(
            f"model.device {config.model.device!r} with rollout.engine 'vllm': vLLM in a container runs on cuda; leave "
            "model.device out"
        )


def check_workers(num_workers: int, gpu: str | None) -> None:
    """Check that ``num_workers`` workers can play for a trainer on ``gpu``, a checked setting.

    Raises:
        ConfigError: they cannot.
    """
    if num_workers < 0:
        raise ConfigError(f"workers {num_workers}: give 1 or more, or 0 for rollouts beside the trainer")
    if num_workers and num_gpus(gpu) > 1:
        raise ConfigError(
            f"workers {num_workers} with {GPU_VARIABLE} {gpu!r}: with several GPUs the first "
            "one's process collects all batches; leave workers out, or train on one GPU"
        )


def _check_model(name: str) -> None:
    """A preset, or a name with a slash (a path or a hub id), or a folder here."""
    from grpo_core.model.presets import PRESETS

    if name not in PRESETS and "/" not in name and not Path(name).is_dir():
        raise ModelError(
            f"model {name!r}: no such preset; allowed: {', '.join(PRESETS)}, a model folder on a volume, or a hub id "
            "such as 'Qwen/Qwen2.5-0.5B'"
        )


def _check_device(model: ModelConfig, gpu: str | None) -> str:
    """The device type of ``model.device`` in the container."""
    import torch

    if model.device == "auto":
        return "cpu" if gpu is None else "cuda"
    try:
        device = torch.device(model.device).type
    except RuntimeError:
        device = ""
    if device == "cpu" or (device == "cuda" and gpu is not None):
        return device
    allowed = "'auto' or 'cpu'" if gpu is None else "'auto', 'cpu' or 'cuda'"
    raise ModelError(f"model.device {model.device!r} with {GPU_VARIABLE} {gpu or NO_GPU!r}: use {allowed}")
