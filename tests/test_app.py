"""The Modal app: every body through ``.local()``, and what the SDK and its CLI make of the file without credentials."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import app
from grpo_core.errors import AdapterNotFoundError, ConfigError, InvalidNameError
from pytest_grpo.remote.project_files import pack
from pytest_grpo.remote.protocol import Decoder, Request

PROJECT_FOLDER = Path(__file__).resolve().parent.parent
SMALL: dict[str, Any] = {"groups": 2, "samples": 2}

# Modal warns that volumes are not mounted here; the bodies use GRPO_HOME instead.
pytestmark = pytest.mark.filterwarnings("ignore:The .* function is executing locally:UserWarning")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRPO_HOME", str(tmp_path))
    return tmp_path


def modal_cli(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The real CLI, as a user without credentials has it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MODAL_", "GRPO_MODAL_"))}
    return subprocess.run(
        [sys.executable, "-m", "modal", *arguments],
        cwd=PROJECT_FOLDER,
        env={**kept, "MODAL_CONFIG_PATH": "/nonexistent/modal.toml", "NO_COLOR": "1", **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_training_then_rollouts_then_inference(
    home: Path, model_folder: str, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO, "grpo_core")

    summary = app.train_grpo.local(steps=2, preset=model_folder, run="demo", **SMALL)

    assert summary["num_steps"] == 2
    assert Path(summary["checkpoint"]).is_relative_to(home / "data/checkpoints/demo")
    kinds = {json.loads(line)["kind"] for line in Path(summary["events"]).read_text().splitlines()}
    assert {"train_step", "rollout", "gpu_stats"} <= kinds
    printed = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in printed[:3]] == [
        "learning rate 0.002 (the default for a hidden size of 32)",
        "step 1",
        "step 2",
    ]
    assert json.loads(printed[-1]) == summary

    first = app.run_rollout.local("demo", preset=model_folder, **SMALL)
    assert json.loads(capsys.readouterr().out) == first
    assert (first["policy_version"], first["adapter_cache_hit"], first["num_completions"]) == (2, False, 4)
    assert "Adapter already cached locally" not in caplog.text
    again = app.run_rollout.local("demo", version=2, preset=model_folder, **SMALL)
    assert again["adapter_cache_hit"] is True
    assert "Adapter already cached locally: demo-v000002" in caplog.text
    assert [again[name] for name in ("reward_mean", "num_completion_tokens")] == [
        first[name] for name in ("reward_mean", "num_completion_tokens")
    ]

    engine = app.InferenceEngine(preset=model_folder, run="demo")  # pyright: ignore[reportCallIssue]  # Modal's types

    def generate(prompts: list[str], **sampling: int) -> list[dict[str, Any]]:
        return asyncio.run(engine.generate.local(prompts, **sampling))

    answers = generate(["Q: 1 + 2 =\nA:", "Q: 2 + 2 =\nA:"], max_tokens=5, seed=3)
    assert [answer["policy_version"] for answer in answers] == [2, 2]
    for answer in answers:
        assert 1 <= len(answer["completion_ids"]) == len(answer["sampling_logprobs"]) <= 5
        assert all(np.isfinite(logprob) and logprob <= 0 for logprob in answer["sampling_logprobs"])
    (alone,) = generate(["Q: 1 + 2 =\nA:"], max_tokens=5, seed=3)
    assert alone["sampling_logprobs"] == pytest.approx(answers[0]["sampling_logprobs"], abs=1e-5)
    assert alone | {"sampling_logprobs": None} == answers[0] | {"sampling_logprobs": None}
    assert generate(["Q: 1 + 2 =\nA:"], version=0, max_tokens=5)[0]["policy_version"] == 0


def test_a_run_that_was_never_trained_samples_from_the_base_model(home: Path, model_folder: str):
    assert app.run_rollout.local("untrained", preset=model_folder, **SMALL)["policy_version"] == 0
    with pytest.raises(AdapterNotFoundError, match="untrained-v000007"):
        app.run_rollout.local("untrained", version=7, preset=model_folder, **SMALL)


def test_training_resumes(home: Path, model_folder: str, capsys: pytest.CaptureFixture[str]):
    app.train_grpo.local(steps=1, preset=model_folder, run="demo", detach=True, **SMALL)
    assert "modal run --detach app.py::train_grpo" in capsys.readouterr().out

    with pytest.raises(ConfigError, match="'demo' has checkpoints"):
        app.train_grpo.local(steps=3, preset=model_folder, run="demo", **SMALL)
    resumed = app.train_grpo.local(steps=3, preset=model_folder, run="demo", resume=True, **SMALL)

    assert resumed["num_steps"] == 2


def test_a_bad_value_is_refused_before_anything_is_written(home: Path):
    with pytest.raises(ConfigError, match="group_size 1 has no siblings"):
        app.train_grpo.local(samples=1)
    with pytest.raises(InvalidNameError, match="'a/b'"):
        app.run_rollout.local("a/b")
    assert list(home.iterdir()) == []


def test_workers_and_several_gpus_do_not_go_together(home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(app, "GPU", "H100:2")
    with pytest.raises(ConfigError, match="workers 3 with GRPO_MODAL_GPU 'H100:2'"):
        app.train_grpo.local(workers=3)
    assert list(home.iterdir()) == []


def test_a_snapshot_is_persisted(home: Path):
    path = app.persist_profile_snapshot.local("ci", {"loss_forward_ms": 1.5})

    assert path == str(home / "data/benchmarks/ci.json")
    assert json.loads(Path(path).read_text())["loss_forward_ms"] == 1.5
    with pytest.raises(InvalidNameError, match=r"'\.\./ci'"):
        app.persist_profile_snapshot.local("../ci", {})


@pytest.mark.slow
def test_a_phase_runs_on_the_files_that_travel(tmp_path: Path):
    (tmp_path / "test_one.py").write_text("import pytest\n@pytest.mark.phase2\ndef test_one(): pass\n")
    request = Request(2, ("test_one.py::test_one",), (), ("--rootdir=.", "-p", "no:cacheprovider"), {}, "/here")

    messages = app.run_pytest.local(request.to_json(), pack(tmp_path, ["test_one.py"]))

    events = list(Decoder().decode("\n".join(messages).split("\n")))
    assert events[0]["event"] == "begun"
    assert events[-1]["exit_code"] == 0, events[-1]["output_tail"]
    outcomes = [(event["data"]["when"], event["data"]["outcome"]) for event in events if event["event"] == "report"]
    assert outcomes == [("setup", "passed"), ("call", "passed"), ("teardown", "passed")]
    recorded = app.record_pytest.local(request.to_json(), pack(tmp_path, ["test_one.py"]))
    assert [event["event"] for event in Decoder().decode("\n".join(recorded).split("\n"))] == [
        event["event"] for event in events
    ]


def test_only_known_gpus_are_taken():
    assert app.gpu_setting("H100") == "H100"
    assert app.gpu_setting("H100:8") == "H100:8"
    assert app.gpu_setting("none") is None
    assert [app.num_gpus(text) for text in ("H100:8", "L4", None)] == [8, 1, 0]
    for text, allowed in {
        **dict.fromkeys(("H900", "h100", "", "none:2"), "T4, .*none"),
        **dict.fromkeys(("L4:9", "L4:", "L4:x"), "1 to 8 of L4; try L4:2"),
        "A10:5": "1 to 4 of A10",
    }.items():
        with pytest.raises(ConfigError, match=f"GRPO_MODAL_GPU {text!r}: allowed are {allowed}"):
            app.gpu_setting(text)


def test_the_image_has_only_files_that_exist():
    source = (PROJECT_FOLDER / "grpo_core/cloud/images.py").read_text(encoding="utf-8")
    names = re.findall(r'project / "([^"]+)"', source)

    assert len(names) == 5
    assert [name for name in names if not (PROJECT_FOLDER / name).exists()] == []


def test_the_cli_without_credentials_says_so_in_one_line():
    finished = modal_cli("run", "--detach", "app.py::train_grpo")

    assert finished.returncode == 1
    assert finished.stdout == ""
    assert "Token missing." in finished.stderr  # older SDKs draw a box around it
    assert "Traceback" not in finished.stderr


@pytest.mark.slow
def test_the_cli_takes_detach_behind_the_name_too():
    finished = modal_cli("run", "app.py::train_grpo", "--detach", "--steps", "3", "--environment", "arithmetic")

    assert "Token missing." in finished.stderr


@pytest.mark.slow
def test_a_container_comes_to_the_same_objects(tmp_path: Path):
    """Modal refuses to start a container whose file defines other secrets and volumes than the one that was sent."""
    shutil.copy(PROJECT_FOLDER / "app.py", tmp_path)  # and nothing else of what the image is built from

    here = describe_app(PROJECT_FOLDER, {"GRPO_MODAL_GPU": "H100", "GRPO_MODAL_SECRETS": "wandb-secret, axiom-secrets"})
    there = describe_app(tmp_path, here["environment"] | {"MODAL_IS_REMOTE": "1"})

    assert len(here["secrets"]) == 2
    assert there == here


def describe_app(folder: Path, environment: dict[str, str]) -> dict[str, Any]:
    program = (
        "import app, json, sys\n"
        "print(json.dumps({'secrets': list(map(repr, app.SECRETS)), 'gpu': app.GPU, 'environment': app.ENVIRONMENT,"
        " 'torch': 'torch' in sys.modules}))"
    )
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME")}
    finished = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=folder,
        env=kept | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(finished.stdout)


def test_importing_the_app_is_light_and_silent():
    described = describe_app(PROJECT_FOLDER, {})

    assert described["secrets"] == []
    assert described["gpu"] == "L4"
    assert described["torch"] is False
