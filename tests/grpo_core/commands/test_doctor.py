"""``grpo doctor``: what it exits with, what it writes, and which engine it examines."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bench.real_vocabularies import build_model
from grpo_core.cli import USER_ERROR_EXIT_CODE, main
from grpo_core.commands import doctor
from grpo_core.rollout.plain_engine.engine import PlainEngine
from grpo_core.rollout.protocol import Outcome
from grpo_core.rollout.torch_engine.engine import TorchEngine
from grpo_core.types import Completion
from tests.grpo_core.rollout.constraints.real_tokenizers import tokenizer_files, tokenizers_folder

Doctor = Callable[..., int]


@pytest.fixture
def run_doctor(model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Doctor:
    """The exit code of ``grpo doctor --quick`` with a shorter memory canary."""
    monkeypatch.setenv("GRPO_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(doctor, "_NUM_QUICK_SWAPS", 2)
    monkeypatch.setattr(doctor, "_NUM_QUICK_REQUESTS", 2)

    def run(*arguments: str, model: str = str(model_folder)) -> int:
        return main(["doctor", "--quick", "--device", "cpu", "--model", model, *arguments])

    return run


def break_step(monkeypatch: pytest.MonkeyPatch, kind: type) -> None:
    def step(self: object) -> list[Outcome]:
        raise RuntimeError("broken")

    monkeypatch.setattr(kind, "step", step)


@pytest.mark.slow
def test_a_sound_engine_exits_0_and_leaves_the_home_alone(
    run_doctor: Doctor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "doctor.json"

    assert run_doctor("--json", str(file)) == 0

    results = json.loads(file.read_text())
    assert results["examined"].startswith("TorchEngine with ")
    assert len(results["canaries"]) == 16
    assert all(canary["passed"] for canary in results["canaries"])
    assert {"name", "passed", "detail", "duration_s"} == set(results["canaries"][0])
    assert all(canary["duration_s"] > 0 for canary in results["canaries"])
    output = capsys.readouterr().out
    assert "all 16 canaries pass; " in output
    assert "memory is flat" in output
    assert not (tmp_path / "home").exists()


@pytest.mark.slow
def test_a_real_vocabulary_and_tokenizer_pass(
    run_doctor: Doctor, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    """151,936 ids, two ends of sequence. ``bench.real_vocabularies`` runs it on more models."""
    folder = tmp_path / "qwen3"
    build_model("qwen3", tokenizer_files("qwen3", tokenizers_folder(tmp_path_factory)), folder)

    assert run_doctor(model=str(folder)) == 0, capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["torch", "plain"])
def test_in_bfloat16_the_engines_are_held_to_what_transformers_rounds(
    engine: str, run_doctor: Doctor, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_doctor("--dtype", "bfloat16", "--engine", engine) == 0, capsys.readouterr().out
    assert "in bfloat16 on cpu" in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
def test_in_bfloat16_a_lost_temperature_is_seen(
    run_doctor: Doctor, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tolerance is wider, not absent."""
    step = PlainEngine.step

    def forgetful(self: PlainEngine) -> list[Outcome]:
        return [
            replace(each, result=replace(each.result, temperature=1.0)) if isinstance(each.result, Completion) else each
            for each in step(self)
        ]

    monkeypatch.setattr(PlainEngine, "step", forgetful)
    assert run_doctor("--dtype", "bfloat16", "--engine", "plain") == doctor.RED_EXIT_CODE
    assert "temperature 0.7" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("engine", "kind"), [("torch", TorchEngine), pytest.param("plain", PlainEngine, marks=pytest.mark.slow)]
)
def test_a_red_canary_exits_1(
    engine: str,
    kind: type,
    run_doctor: Doctor,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    break_step(monkeypatch, kind)

    assert run_doctor("--engine", engine) == doctor.RED_EXIT_CODE
    output = capsys.readouterr().out
    assert f"{kind.__name__} with" in output
    assert "16 of 16 canaries are red" in output


@pytest.mark.slow
def test_what_the_torch_engine_cannot_drive_is_examined_on_the_plain_one(
    model_folder: Path,
    tmp_path: Path,
    run_doctor: Doctor,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    config = AutoConfig.for_model(
        "mistral",
        vocab_size=384,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    folder = tmp_path / "mistral"
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(model_folder).save_pretrained(folder)
    break_step(monkeypatch, PlainEngine)

    assert run_doctor(model=str(folder)) == doctor.RED_EXIT_CODE
    assert "PlainEngine with" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--model", "huge"], "'huge'"),
        (["--device", "tpu"], "'tpu'"),
        (["--json", "missing/folder/doctor.json"], "missing/folder/doctor.json"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str],
    named: str,
    run_doctor: Doctor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)

    assert run_doctor(*arguments) == USER_ERROR_EXIT_CODE
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("grpo: error: ")
    assert named in line


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_vllm_that_is_not_installed_is_one_line(run_doctor: Doctor, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_doctor("--engine", "vllm") == USER_ERROR_EXIT_CODE
    (line,) = capsys.readouterr().err.splitlines()
    assert "vllm" in line
