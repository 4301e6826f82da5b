from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

from grpo_core.config import ModelConfig
from grpo_core.errors import ModelError
from grpo_core.model.memory import check_memory, num_parameters
from grpo_core.model.policy import load_policy


def widened(model_folder: Path, target: Path, **changes: int) -> Path:
    """The files of a model under a configuration that asks for another size."""
    shutil.copytree(model_folder, target)
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config | changes))
    return target


def test_the_parameters_are_those_of_the_loaded_model(model_folder: Path) -> None:
    policy = load_policy(ModelConfig(name=str(model_folder), device="cpu"))
    counted = num_parameters(str(model_folder), AutoConfig.from_pretrained(model_folder))
    assert counted == sum(parameter.numel() for parameter in policy.model.parameters())


def test_a_model_beyond_the_memory_is_one_line_before_its_weights_are_read(model_folder: Path, tmp_path: Path) -> None:
    huge = widened(model_folder, tmp_path / "huge", hidden_size=16384, intermediate_size=1 << 24)
    with pytest.raises(ModelError, match=r"model '.*huge': .* billion weights take .* GiB in float32, and .* GiB are "):
        load_policy(ModelConfig(name=str(huge), device="cpu"))


def test_half_precision_takes_half(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, cpu = AutoConfig.from_pretrained(model_folder), torch.device("cpu")
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": free_bytes}))
    free_bytes = 3 * num_parameters(str(model_folder), config)
    check_memory(str(model_folder), config, torch.bfloat16, cpu)
    with pytest.raises(ModelError, match="float32"):
        check_memory(str(model_folder), config, torch.float32, cpu)


def test_a_configuration_that_contradicts_itself_is_one_line(model_folder: Path, tmp_path: Path) -> None:
    odd = widened(model_folder, tmp_path / "odd", num_attention_heads=0)
    with pytest.raises(ModelError, match=r"model '.*odd': cannot be loaded"):
        load_policy(ModelConfig(name=str(odd), device="cpu"))
