"""Exported folders: others load them, and they say what the run's policy says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from grpo_core.cli import main
from grpo_core.training.checkpoint.checkpoint import read_checkpoint
from grpo_core.types import Adapter
from tests.grpo_core.export.hub_server import running_hub


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Iterator[Path]:
    """A home with a run of three steps, ``watched``, and one of full weights, ``whole``."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRPO_HOME", str(home))
        patch.chdir(home)
        common = [
            "--model",
            str(model_folder),
            "--device",
            "cpu",
            "--groups",
            "2",
            "--samples",
            "2",
            "--policy-lag",
            "0",
        ]
        watched = ["--set", "evaluation.every_steps=2", "--set", "evaluation.num_questions=3"]
        rates = ["--learning-rate", "0.05", "--set", "rollout.max_completion_tokens=8"]
        words = ["--set", "environment.name=tests.grpo_core.schedule.environments:chatty"]
        assert main(["train", "--run", "watched", "--steps", "3", *common, *watched, *rates, *words]) == 0
        full = ["--set", "training.method=full", "--learning-rate", "0.001"]
        assert main(["train", "--run", "whole", "--steps", "1", *common, *full, *words, *rates[2:]]) == 0
        yield home


@pytest.fixture(autouse=True)
def _in_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRPO_HOME", str(home))


def checkpoint_of(home: Path, run: str, step: int) -> Path:
    return home / "data" / "checkpoints" / run / f"step-{step:06d}"


@pytest.fixture(scope="module")
def plain_adapted(home: Path, model_folder: Path) -> Any:
    """The base model with the adapter of step 3 added by hand."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_folder)
    adapter = read_checkpoint(checkpoint_of(home, "watched", 3)).weights
    assert isinstance(adapter, Adapter)
    modules: dict[str, Any] = dict(model.named_modules())
    for name, tensor in adapter.tensors.items():
        if name.endswith(".lora_A.weight"):
            module = name.removesuffix(".lora_A.weight")
            change = adapter.tensors[f"{module}.lora_B.weight"] @ tensor
            modules[module].weight.data += change * adapter.alpha / adapter.rank
    return model.eval()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.arange(1, 20)[None]).logits


def test_an_adapter_loads_with_peft(
    home: Path, tmp_path: Path, model_folder: Path, plain_adapted: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert main(["export", "watched", "--step", "3", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.startswith("step 3 of watched: ")
    base = AutoModelForCausalLM.from_pretrained(model_folder)
    with torch.no_grad():
        plain = logits(base)
    loaded = PeftModel.from_pretrained(base, str(tmp_path / "out")).eval()
    assert torch.allclose(logits(loaded), logits(plain_adapted), atol=1e-5)
    assert not torch.allclose(plain, logits(plain_adapted), atol=1e-3)
    assert AutoTokenizer.from_pretrained(tmp_path / "out").encode("army") is not None
    assert main(["export", "watched", "--best", str(tmp_path / "best")]) == 0
    assert (tmp_path / "best" / "adapter_model.safetensors").is_file()


def test_a_merged_model_says_what_the_adapter_says(tmp_path: Path, plain_adapted: Any) -> None:
    from transformers import AutoModelForCausalLM

    assert main(["export", "watched", "--merge", str(tmp_path / "out")]) == 0
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.allclose(logits(loaded.eval()), logits(plain_adapted), atol=1e-5)
    assert not (tmp_path / "out" / "adapter_config.json").exists()
    assert "attn" not in (tmp_path / "out" / "config.json").read_text()


def test_full_weights_are_a_whole_model(home: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert main(["export", "whole", str(tmp_path / "out")]) == 0
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    trained = read_checkpoint(checkpoint_of(home, "whole", 1)).weights.tensors
    assert all(torch.equal(loaded[name], tensor) for name, tensor in trained.items())
    assert AutoTokenizer.from_pretrained(tmp_path / "out").eos_token == "<|endoftext|>"
    assert str(home) not in (tmp_path / "out" / "config.json").read_text()


def test_the_card_says_what_was_trained_and_names_no_path(tmp_path: Path, model_folder: Path) -> None:
    assert main(["export", "watched", str(tmp_path / "out")]) == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: peft\n")
    assert "Trained with GRPO for 3 steps." in card
    assert f"| base model | {model_folder.name} |" in card
    everything = b"".join(path.read_bytes() for path in (tmp_path / "out").iterdir() if path.suffix in (".md", ".json"))
    assert str(model_folder).encode() not in everything


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["nobody", "out"], "run 'nobody' has no checkpoint; runs with checkpoints: watched, whole"),
        (["watched", "--step", "9", "out"], "--step 9: run 'watched' has checkpoints of 2, 3"),
        (["whole", "--best", "out"], "run 'whole' has no best checkpoint, which evaluation.every_steps keeps"),
        (["watched", "."], ". is there already; name another folder"),
        (["watched", "out", "--push", "name"], "--push 'name': it has no owner; give OWNER/NAME"),
        (["watched", "--merge", "out", "--model", "tiny"], "another one than the run was trained on"),
        (["watched", "out", "--model", "tiny"], "another one than the run was trained on"),
        (["whole", "out", "--model", "tiny"], "another one than the run was trained on"),
    ],
)
def test_what_cannot_be_exported_is_one_line_and_leaves_nothing(
    arguments: list[str], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    tmp_path.joinpath("a-file").touch()
    assert main(["export", *arguments]) == 2
    assert line in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["a-file"]


def test_it_is_pushed_to_a_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with running_hub() as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.address)
        monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", hub.address)
        monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
        assert main(["export", "watched", str(tmp_path / "out"), "--push", "me/mine"]) == 0
        (created,) = hub.created
        assert (created["name"], created["organization"]) == ("mine", "me")
        assert created.get("visibility") == "private" or created.get("private") is True  # as versions of the client ask
        pushed = hub.files
        hub.is_refusing = True
        assert main(["export", "watched", str(tmp_path / "again"), "--push", "me/mine"]) == 2
    assert pushed == {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert json.loads(pushed["adapter_config.json"])["peft_type"] == "LORA"
    assert "--push me/mine: " in capsys.readouterr().err
    assert (tmp_path / "again").is_dir()
