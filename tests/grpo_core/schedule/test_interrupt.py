"""What ends a run early: Ctrl-C, SIGTERM, SIGHUP, and what does not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from grpo_core.schedule.interrupt import stop_on_signals
from grpo_core.schedule.loop import train
from grpo_core.schedule.reports import StepReport
from grpo_core.schedule.stack import Stack
from grpo_core.training.checkpoint.state import newest_state
from tests.grpo_core.schedule.run import losses, quiet

MakeStack = Callable[..., Stack]

pytestmark = pytest.mark.usefixtures("nothing_is_left")

LONG_S = 1000.0

STUCK_MODULE = "stuck_environment"
STUCK_SOURCE = """
import sys, time
from grpo_core.environments.arithmetic import ArithmeticEnvironment

class Stuck(ArithmeticEnvironment):
    \"\"\"The second batch of one group of two never ends.\"\"\"

    num_started = 0

    def __init__(self, config):
        super().__init__()

    def step(self, actions):
        Stuck.num_started += 1
        if Stuck.num_started > 2:
            sys.stdout.write("\\nstuck\\n")  # at once, with a line end before it: other threads write lines too
            sys.stdout.flush()
            time.sleep(3600)
        super().step(actions)
"""


@contextmanager
def handler(number: signal.Signals, action: signal.Handlers) -> Iterator[None]:
    before = signal.signal(number, action)
    try:
        yield
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_run_that_is_asked_to_end_saves_and_goes_on_as_it_was(number: signal.Signals, make_stack: MakeStack) -> None:
    uninterrupted = train(make_stack(home="whole"), quiet())

    def ask(report: StepReport) -> None:
        if report.metrics.step == 2:
            signal.raise_signal(number)
            signal.raise_signal(number)  # `timeout` and `srun` send two

    with handler(number, signal.SIG_DFL):  # `nohup` ignores one of them
        first = train(make_stack(), quiet(), on_step=ask)
    second = train(make_stack(), quiet(), resume=True)

    assert (first.interrupted, first.stop_signal) == (True, number)
    assert first.checkpoint is not None
    assert first.checkpoint.name == "step-000002"
    assert losses(first) + losses(second) == losses(uninterrupted)


def test_a_request_that_was_there_before_the_first_step_ends_the_run(make_stack: MakeStack) -> None:
    with stop_on_signals(LONG_S) as stop:
        signal.raise_signal(signal.SIGTERM)
        result = train(make_stack(), quiet(), stop=stop)

    assert (result.reports, result.interrupted, result.checkpoint) == ((), True, None)


def test_ctrl_c_and_then_sigterm_is_sigterm() -> None:
    with stop_on_signals(LONG_S) as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.signal == signal.SIGINT
        signal.raise_signal(signal.SIGTERM)
        assert stop.signal == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_an_ignored_signal_stays_ignored() -> None:
    """As SIGHUP is under ``nohup``, and Ctrl-C in a background job of a script."""
    for number in (signal.SIGHUP, signal.SIGINT):
        with handler(number, signal.SIG_IGN), stop_on_signals(LONG_S) as stop:
            signal.raise_signal(number)
            assert stop.signal is None


@pytest.mark.slow
def test_a_step_that_does_not_end_has_no_more_than_the_grace_time(model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / f"{STUCK_MODULE}.py").write_text(STUCK_SOURCE)
    process = subprocess.Popen(
        [sys.executable, "-m", "grpo_core.cli", "train", "--run", "run", "--model", str(model_folder),
         "--environment", f"{STUCK_MODULE}:Stuck", "--groups", "1", "--samples", "2", "--policy-lag", "0",
         "--set", "rollout.max_completion_tokens=4", "--set", "schedule.stop_grace_s=1"],
        env=os.environ | {"GRPO_HOME": str(tmp_path / "home"), "PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        while process.stdout.readline() != "stuck\n":
            assert process.poll() is None
        process.terminate()
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()

    assert process.returncode == 128 + signal.SIGTERM
    assert errors.splitlines()[-1].startswith(
        "grpo: stopped, since the step under way did not end within 1 s of SIGTERM"
    )
    state = newest_state(tmp_path / "home/data/checkpoints/run")
    assert state is not None
    assert state["step"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("processes", ["1", "2"])
def test_sigterm_is_exit_code_143_and_a_checkpoint(processes: str, model_folder: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "grpo_core.cli", "train", "--run", "run", "--model", str(model_folder),
         "--groups", "2", "--samples", "2", "--steps", "1000000", "--processes", processes,
         "--set", "rollout.max_completion_tokens=4"],
        env=os.environ | {"GRPO_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        while not (line := process.stdout.readline()).startswith("step 3:"):
            assert process.poll() is None
        process.terminate()
        output, _ = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()

    assert process.returncode == 128 + signal.SIGTERM
    lines = [line, *output.splitlines()]
    last_step = max(int(line.split()[1][:-1]) for line in lines if line.startswith("step "))
    resuming = "stopped early; continue with: grpo train --run run --resume"
    assert lines[-1] == resuming + (" --processes 2" if processes == "2" else "")
    state = newest_state(tmp_path / "home/data/checkpoints/run")
    assert state is not None
    assert state["step"] == last_step
