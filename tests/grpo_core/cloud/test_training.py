"""What several GPUs are started with, and when what is published is committed."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch

from grpo_core.cli import _parser
from grpo_core.cloud.gpus import gpu_setting, num_gpus
from grpo_core.cloud.shared_store import SharedAdapterStore
from grpo_core.cloud.training import has_checkpoint, train_arguments, train_with_torchrun
from grpo_core.commands.command_line.options import config_from_flags
from grpo_core.config import build_config
from grpo_core.errors import ConfigError, EngineError
from grpo_core.home import Home
from grpo_core.types import Adapter, PolicyVersion


@pytest.mark.parametrize(
    "environment",
    [
        {"name": "diplomacy", "compact_prompts": True},
        {"name": "my_game:Game", "settings": {"words": ["a b", "c"], "depth": 2, "rules": {"is hard": True, "x": "="}}},
        {"data": {"path": "q.jsonl", "rewards": ["a:b", "a:c=0.5"], "system_prompt": 'Say "yes"\nor no.'}},
    ],
)
def test_torchrun_gets_the_whole_configuration(environment: dict[str, object]):
    config = build_config(
        {
            "bench": {"variants": {"slow": {"rollout": {"num_groups": 2}}}},
            "run": "wide",
            "model": {"name": "models/\N{SMILING FACE WITH OPEN MOUTH}", "lora_targets": ["q_proj"]},
            "environment": environment,
            "training": {"learning_rate": 1e-3, "clip_dual": None},
            "schedule": {"torch_threads": 3},
        }
    )

    flags: argparse.Namespace = _parser().parse_args(train_arguments(config, resume=True))

    assert (flags.run, flags.resume) == ("wide", True)
    assert config_from_flags(flags, {}, flags.run) == config


@pytest.mark.slow
def test_torchrun_trains_and_what_it_wrote_is_committed(
    tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("GRPO_HOME", str(tmp_path))
    config = build_config(
        {
            "run": "wide",
            "model": {"name": str(model_folder), "device": "cpu"},
            "rollout": {"num_groups": 2, "group_size": 2},
            "schedule": {"num_steps": 2},
        }
    )
    commits: list[bool] = []
    home = Home.from_environment()

    def commit() -> None:
        commits.append(has_checkpoint(config, home))

    summary = train_with_torchrun(config, home, 1, commit=commit, resume=False, commit_every_s=0.5)

    assert (summary["run"], summary["num_gpus"]) == ("wide", 1)
    assert (home.checkpoints / "wide/step-000002").is_dir()
    assert len(commits) > 1
    assert commits[-1]
    with pytest.raises(EngineError, match="run 'wide': torchrun ended with exit code 1"):
        train_with_torchrun(config, home, 1, commit=commit, resume=False)
    assert "'wide' has checkpoints" in capfd.readouterr().err


def test_a_count_of_gpus_is_part_of_the_setting():
    assert [num_gpus(gpu_setting(text)) for text in ("L4", "H100:8", "A100-80GB:2", "none")] == [1, 8, 2, 0]
    with pytest.raises(ConfigError, match="GRPO_MODAL_GPU 'H100:9': allowed are 1 to 8 of H100; try H100:2"):
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
