"""What several GPUs are started with, and when what is published is committed."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pytest
import torch

from grpo_core.cli import _parser
from grpo_core.cloud.gpus import gpu_setting, num_gpus
from grpo_core.cloud.shared_store import SharedAdapterStore
from grpo_core.cloud.training import torchrun_command
from grpo_core.commands.options import config_from_flags
from grpo_core.config import build_config
from grpo_core.errors import ConfigError
from grpo_core.types import Adapter, PolicyVersion


def test_torchrun_gets_the_whole_configuration():
    config = build_config(
        {
            "run": "wide",
            "model": {"name": "small", "lora_targets": ["q_proj"]},
            "environment": {"name": "diplomacy", "compact_prompts": True},
            "training": {"learning_rate": 1e-3},
            "schedule": {"torch_threads": 3},
        }
    )

    command = torchrun_command(config, 4, resume=True)

    assert command[:3] == [sys.executable, "-m", "torch.distributed.run"]
    assert "--nproc-per-node=4" in command
    flags: argparse.Namespace = _parser().parse_args(command[command.index("train") :])
    assert (flags.run, flags.resume) == ("wide", True)
    assert config_from_flags(flags, {}, flags.run) == config


def test_a_count_of_gpus_is_part_of_the_setting():
    assert [num_gpus(gpu_setting(text)) for text in ("L4", "H100:8", "A100-80GB:2", "none")] == [1, 8, 2, 0]
    with pytest.raises(ConfigError, match=r"GRPO_MODAL_GPU 'H100:9': allowed are T4, .*up to :8"):
        gpu_setting("H100:9")


def test_a_version_is_whole_when_it_is_committed(tmp_path: Path):
    version = PolicyVersion("demo", 1)
    seen: list[list[PolicyVersion]] = []
    store = SharedAdapterStore(tmp_path, lambda: seen.append(store.versions("demo")))
    adapter = Adapter(
        version=version,
        base_fingerprint="model",
        rank=1,
        alpha=1.0,
        target_modules=("a",),
        tensors={"a.lora_A.weight": torch.zeros(1, 2), "a.lora_B.weight": torch.zeros(2, 1)},
    )

    store.publish(adapter)

    assert seen == [[version]]
    assert store.load(version).version == version
