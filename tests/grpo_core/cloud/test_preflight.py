"""``grpo ... --modal`` says here what a container would refuse. There are no credentials: nothing could be sent."""

from __future__ import annotations

from pathlib import Path

import pytest

from grpo_core.cli import USER_ERROR_EXIT_CODE, main
from grpo_core.cloud.preflight import check_settings, check_workers
from grpo_core.config import build_config
from grpo_core.errors import ConfigError


@pytest.fixture
def no_modal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The commands may not even import the app, which is what they do first to send anything."""
    (tmp_path / "app.py").write_text("raise AssertionError('the app was imported')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRPO_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("GRPO_MODAL_GPU", raising=False)


@pytest.mark.parametrize(
    ("arguments", "gpu", "named"),
    [
        (["train", "--environment", "chess"], "L4", "environment.name 'chess' is not known; allowed: arithmetic"),
        (["profile", "--environment", "chess"], "L4", "environment.name 'chess' is not known"),
        (["benchmark", "--environment", "chess"], "L4", "environment.name 'chess' is not known"),
        (["train", "--model", "huge"], "L4", "model 'huge': no such preset; allowed: tiny, small, adder"),
        (["train", "--set", "training.loss=ppo"], "L4", "training.loss: 'ppo' is not allowed"),
        (["train", "--run", "a/b"], "L4", "'a/b'"),
        (
            ["train", "--device", "gpu"],
            "L4",
            "model.device 'gpu' with GRPO_MODAL_GPU 'L4': use 'auto', 'cpu' or 'cuda'",
        ),
        (["train", "--device", "cuda"], "none", "model.device 'cuda' with GRPO_MODAL_GPU 'none': use 'auto' or 'cpu'"),
        (["train", "--engine", "vllm"], "none", "rollout.engine 'vllm' with GRPO_MODAL_GPU 'none'"),
        (["train", "--engine", "vllm", "--device", "cpu"], "L4", "model.device 'cpu' with rollout.engine 'vllm'"),
        (
            ["train", "--engine", "vllm", "--set", "training.method=full"],
            "L4",
            "does not go with training.method 'full'",
        ),
        (["train", "--workers", "4"], "H100:2", "workers 4 with GRPO_MODAL_GPU 'H100:2'"),
        (["train", "--workers", "-1"], "L4", "workers -1: give 1 or more"),
        (["train"], "Voodoo", "GRPO_MODAL_GPU 'Voodoo'"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_sent(
    arguments: list[str],
    gpu: str,
    named: str,
    no_modal: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("GRPO_MODAL_GPU", gpu)

    assert main([*arguments, "--modal"]) == USER_ERROR_EXIT_CODE

    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("grpo: error: ")
    assert named in line
    assert not Path("home").exists()


@pytest.mark.parametrize(
    ("settings", "gpu"),
    [
        ({}, None),
        ({}, "H100:8"),
        ({"model": {"name": "/models/mine", "device": "cpu"}}, "L4"),  # on the volume, perhaps
        ({"model": {"name": "models/mine"}}, "L4"),
        ({"model": {"name": "Qwen/Qwen2.5-0.5B", "device": "cuda:0"}, "rollout": {"engine": "vllm"}}, "L4"),
        ({"environment": {"name": "my_game:make"}}, "L4"),  # in the image, perhaps
        ({"environment": {"name": "diplomacy"}}, None),
    ],
)
def test_what_only_a_container_knows_is_left_to_it(settings: dict[str, dict[str, str]], gpu: str | None) -> None:
    check_settings(build_config(settings), gpu)


def test_workers_play_for_one_gpu_or_none() -> None:
    for num_workers, gpu in ((0, "H100:8"), (4, "L4"), (4, None)):
        check_workers(num_workers, gpu)
    with pytest.raises(ConfigError, match="leave workers out, or train on one GPU"):
        check_workers(1, "L4:2")
