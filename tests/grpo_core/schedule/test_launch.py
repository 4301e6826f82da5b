"""``grpo train`` in two processes, on this machine's loopback."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from grpo_core.config import GrpoConfig, build_config
from grpo_core.home import Home
from grpo_core.schedule.launch import launch_training
from grpo_core.schedule.loop import train
from grpo_core.schedule.stack import build_stack
from grpo_core.telemetry.events import Telemetry
from tests.grpo_core.ledger.identity import check_identity
from tests.grpo_core.telemetry.otel.traces import check_traces

ENVIRONMENT = """
from grpo_core.environments.arithmetic import ArithmeticEnvironment

class Chatty(ArithmeticEnvironment):
    \"\"\"Pays for long answers, which a random policy can give, unlike right ones.\"\"\"

    def __init__(self, config):
        super().__init__()

    def step(self, actions):
        super().step(actions)
        self._reward = float(len(actions["solver"]))
"""


def make_config(model_folder: Path, num_steps: int) -> GrpoConfig:
    return build_config(
        {
            "run": "run",
            "model": {"name": str(model_folder), "device": "cpu", "lora_rank": 4},
            "environment": {"name": "launched_environment:Chatty"},
            "rollout": {"num_groups": 3, "group_size": 2, "max_completion_tokens": 8},
            "training": {"learning_rate": 0.01},
            "schedule": {"num_steps": num_steps, "max_policy_lag_steps": 0, "torch_threads": 1},
        }
    )


def events(home: Path) -> list[dict[str, Any]]:
    path = home / "data/events/run.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines() if line] if path.exists() else []


def train_steps(home: Path) -> list[dict[str, Any]]:
    return [record for record in events(home) if record["kind"] == "train_step"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "launched_environment.py").write_text(ENVIRONMENT)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("GRPO_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.mark.slow
def test_two_processes_train_stop_and_resume_as_one_does(home: Path, model_folder: Path, tmp_path: Path) -> None:
    on_ctrl_c = signal.getsignal(signal.SIGINT)

    launch_training(make_config(model_folder, 2), 2)
    launch_training(make_config(model_folder, 4), 2, resume=True)

    assert signal.getsignal(signal.SIGINT) is on_ctrl_c  # the launcher takes it for itself

    stack = build_stack(make_config(model_folder, 4), Home(tmp_path / "one/data", tmp_path / "one/traces"))
    expected = [report.metrics for report in train(stack, Telemetry("run", [])).reports]
    found = train_steps(home)
    assert [step["step"] for step in found] == [1, 2, 3, 4]
    for step, metrics in zip(found, expected, strict=True):
        assert step["loss"] == pytest.approx(metrics.loss, abs=1e-4)
        assert step["grad_norm"] == pytest.approx(metrics.grad_norm, rel=1e-3)
        assert step["reward_mean"] == metrics.reward_mean
        assert step["num_loss_tokens"] == metrics.num_loss_tokens
        assert step["ratio_max"] == pytest.approx(1, abs=1e-4)  # both sampled and trained with what was published
    assert (home / "data/checkpoints/run/step-000004").is_dir()
    follower = check_identity(events(home))["trainer-1", "train"]
    assert [event["step"] for event in follower] == [1, 2, 3, 4]
    assert all(event["wait_processes_s"] > 0 < event["train_backward_s"] for event in follower)
    assert check_traces(events(home)) == 4 * [{"trainer-0", "trainer-1"}]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent is gone")
def test_a_launcher_that_is_killed_leaves_no_process_that_trains(home: Path, model_folder: Path) -> None:
    command = [sys.executable, "-m", "grpo_core.cli", "train", "--run", "run", "--model", str(model_folder)]
    command += ["--environment", "launched_environment:Chatty", "--groups", "2", "--samples", "2", "--processes", "2"]
    command += ["--steps", "1000000", "--set", "rollout.max_completion_tokens=8"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    launcher = psutil.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    started: list[psutil.Process] = []
    try:
        deadline = time.monotonic() + 120
        while len(train_steps(home)) < 2:
            assert launcher.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        started = launcher.children(recursive=True)
        launcher.kill()
        launcher.wait()
        _, alive = psutil.wait_procs(started, timeout=60)
    finally:
        for process in (launcher, *started):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    assert alive == []
    last = max(step["step"] for step in train_steps(home))
    assert (home / f"data/checkpoints/run/step-{last:06d}").is_dir()  # they saved what they did


@pytest.mark.slow
def test_when_one_process_is_gone_the_other_ends(home: Path, model_folder: Path) -> None:
    killed = 1
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "grpo_core.cli", "train", "--run", "run", "--model", str(model_folder)]
    command += ["--environment", "launched_environment:Chatty", "--groups", "3", "--samples", "2"]
    command += ["--steps", "1000000", "--set", "rollout.max_completion_tokens=8"]
    processes = [
        subprocess.Popen(
            command,
            env=os.environ
            | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
            | {"MASTER_PORT": port, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        deadline = time.monotonic() + 120
        while len(train_steps(home)) < 2:
            assert [process.poll() for process in processes] == [None, None]
            assert time.monotonic() < deadline
            time.sleep(0.02)
        processes[killed].kill()
        _, errors = processes[1 - killed].communicate(timeout=300)
    finally:
        for process in processes:
            process.kill()
            process.communicate()

    assert processes[1 - killed].returncode == 2, errors
    last = errors.strip().splitlines()[-1]
    assert last.startswith(f"grpo: error: process {1 - killed}: another process is gone (")
    assert last.endswith("continue with --resume")
