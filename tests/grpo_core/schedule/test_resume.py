"""Runs that are interrupted or killed, and go on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from grpo_core.errors import CheckpointError, ConfigError
from grpo_core.schedule.loop import train
from grpo_core.schedule.reports import StepReport
from grpo_core.schedule.stack import Stack
from grpo_core.training.checkpoint.checkpoint import load_checkpoint
from grpo_core.types import PolicyVersion
from tests.grpo_core.schedule import environments
from tests.grpo_core.schedule.run import losses, quiet, rollout_threads

MakeStack = Callable[..., Stack]

pytestmark = pytest.mark.usefixtures("nothing_is_left")

CHATTY_MODULE = "chatty_environment"
CHATTY_SOURCE = """
from grpo_core.environments.arithmetic import ArithmeticEnvironment

class Chatty(ArithmeticEnvironment):
    def __init__(self, config):
        super().__init__()

    def step(self, actions):
        super().step(actions)
        self._reward = float(len(actions["solver"]))
"""


def interrupt_at(step: int, number: signal.Signals = signal.SIGINT) -> Callable[[StepReport], None]:
    """What Ctrl-C, or another signal, does when ``step`` has ended."""

    def on_step(report: StepReport) -> None:
        if report.metrics.step == step:
            signal.raise_signal(number)

    return on_step


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(make_stack: MakeStack) -> None:
    uninterrupted = train(make_stack(home="whole", num_steps=5), quiet())

    first = train(make_stack(num_steps=5), quiet(), on_step=interrupt_at(2))
    assert first.interrupted
    assert first.checkpoint is not None
    assert first.checkpoint.name == "step-000002"
    assert load_checkpoint(first.checkpoint.parent).weights.version.number == 2
    second = train(make_stack(num_steps=5), quiet(), resume=True)

    assert not second.interrupted
    assert [report.metrics.step for report in second.reports] == [3, 4, 5]
    assert losses(first) + losses(second) == losses(uninterrupted)


def test_an_interrupted_run_refills_its_batches_as_the_whole_one_does(make_stack: MakeStack) -> None:
    options = {"environment": f"{environments.__name__}:picky", "max_refill_rounds": 6, "num_steps": 6}
    uninterrupted = train(make_stack(home="whole", **options), quiet())

    first = train(make_stack(**options), quiet(), on_step=interrupt_at(2))
    second = train(make_stack(**options), quiet(), resume=True)

    reports = [*first.reports, *second.reports]
    assert losses(first) + losses(second) == losses(uninterrupted)
    assert [report.rollout.num_sampled_groups for report in reports] == [
        report.rollout.num_sampled_groups for report in uninterrupted.reports
    ]
    assert sum(report.rollout.num_replaced_groups for report in first.reports) > 0
    assert sum(report.rollout.num_replaced_groups for report in second.reports) > 0
    assert all(report.metrics.advantage_abs_mean > 0 for report in reports)


@pytest.mark.parametrize(
    ("method", "lag", "depth", "max_refill_rounds"),
    [
        ("lora", 0, 1, 0),
        pytest.param("lora", 1, 1, 0, marks=pytest.mark.slow),
        pytest.param("lora", 1, 2, 0, marks=pytest.mark.slow),
        ("lora", 2, 3, 0),
        pytest.param("full", 0, 1, 0, marks=pytest.mark.slow),
        ("full", 1, 2, 0),
        pytest.param("lora", 0, 1, 4, marks=pytest.mark.slow),
        ("lora", 2, 3, 4),
    ],
)
def test_a_run_that_was_killed_repeats_its_steps_bit_for_bit(
    method: str, lag: int, depth: int, max_refill_rounds: int, make_stack: MakeStack, tmp_path: Path
) -> None:
    """``killed`` is the home as it was in the middle of step 5, two steps after the last checkpoint."""
    options = {"method": method, "lag": lag, "depth": depth, "num_steps": 8, "checkpoint_every": 3}
    if max_refill_rounds:
        options |= {"max_refill_rounds": max_refill_rounds, "environment": f"{environments.__name__}:picky"}
    recorded: list[int] = []

    whole = make_stack(**options)

    def copy(report: StepReport) -> None:
        if report.metrics.step == 5:
            whole.store.wait()  # a copy takes time; bench/crash_test.py kills between any two writes
            shutil.copytree(tmp_path / "home", tmp_path / "killed", ignore=shutil.ignore_patterns(".*"))
            recorded.extend(int(path.stem[-6:]) for path in sorted((tmp_path / "killed").rglob("batch-*.arrow")))

    uninterrupted = train(whole, quiet(), on_step=copy)
    resumed = train(make_stack(home="killed", **options), quiet(), resume=True)

    assert {3, 4} <= set(recorded) <= set(range(3, 8))
    assert [report.metrics.step for report in resumed.reports] == [4, 5, 6, 7, 8]
    num_repeated = 5 if lag == 0 else len(recorded)  # with lag, the timing decides what samples those to come
    for again, report in list(zip(resumed.reports, uninterrupted.reports[3:], strict=True))[:num_repeated]:
        assert again.metrics.loss == report.metrics.loss
        assert again.metrics.grad_norm == report.metrics.grad_norm
        assert again.policy_lag_steps == report.policy_lag_steps
    assert len(set(losses(uninterrupted))) == 8
    assert list(make_stack(home="killed", **options).buffer_folder.iterdir()) == []


@pytest.mark.slow
def test_a_process_that_is_killed_goes_on_as_it_was(model_folder: Path, tmp_path: Path) -> None:
    """By its pid, with SIGKILL, at no particular moment."""
    settings = {
        "model.lora_rank": 4, "rollout.max_completion_tokens": 8, "training.learning_rate": 0.01,
        "schedule.checkpoint_every_steps": 4, "schedule.max_policy_lag_steps": 1, "schedule.torch_threads": 1,
        "rollout.num_groups": 2, "rollout.group_size": 2,
    }  # fmt: skip
    command = [sys.executable, "-m", "grpo_core.cli", "train", "--run", "run", "--model", str(model_folder)]
    command += ["--environment", f"{CHATTY_MODULE}:Chatty"]
    command += [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    (tmp_path / f"{CHATTY_MODULE}.py").write_text(CHATTY_SOURCE)
    environment = os.environ | {"GRPO_HOME": str(tmp_path / "home"), "PYTHONPATH": str(tmp_path)}
    events = tmp_path / "home/data/events/run.jsonl"

    def steps() -> list[tuple[int, float]]:
        lines = events.read_text().splitlines() if events.exists() else []
        records = [json.loads(line) for line in lines if line.endswith("}")]
        return [(record["step"], record["loss"]) for record in records if record["kind"] == "train_step"]

    process = subprocess.Popen([*command, "--steps", "1000000"], env=environment, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while len(steps()) < 7:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    before = dict(steps())
    last = max(before)
    subprocess.run(
        [*command, "--resume", "--steps", str(last + 3)], env=environment, check=True, stdout=subprocess.DEVNULL
    )
    after = steps()[len(before) :]

    first = after[0][0]
    assert 4 < first <= last + 1
    assert (first - 1) % 4 == 0
    assert [step for step, _ in after] == list(range(first, last + 4))
    assert [(step, loss) for step, loss in after if step <= last] == [
        (step, before[step]) for step in range(first, last + 1)
    ]


def test_an_interrupted_run_with_lag_keeps_its_budget_when_it_goes_on(make_stack: MakeStack) -> None:
    options = {"lag": 2, "depth": 3, "num_steps": 8}
    first = train(make_stack(**options), quiet(), on_step=interrupt_at(3))
    second = train(make_stack(**options), quiet(), resume=True)

    assert first.interrupted
    assert [report.metrics.step for report in second.reports] == [4, 5, 6, 7, 8]
    assert max(report.policy_lag_steps for report in second.reports) <= 2


def test_versions_newer_than_the_checkpoint_are_made_again(make_stack: MakeStack) -> None:
    def crash(report: StepReport) -> None:
        if report.metrics.step == 3:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train(make_stack(checkpoint_every=2), quiet(), on_step=crash)
    stack = make_stack(learning_rate=0.02)  # so that version 3 will be another one
    lost = stack.store.load(PolicyVersion("run", 3)).tensors

    result = train(stack, quiet(), resume=True)

    assert [report.metrics.step for report in result.reports] == [3, 4]
    assert any(
        not torch.equal(value, lost[name]) for name, value in stack.store.load(PolicyVersion("run", 3)).tensors.items()
    )


def test_ctrl_c_after_the_last_step_interrupts_nothing(make_stack: MakeStack) -> None:
    result = train(make_stack(num_steps=2), quiet(), on_step=interrupt_at(2))

    assert not result.interrupted
    assert len(result.reports) == 2


def test_a_second_ctrl_c_ends_the_run_at_once(make_stack: MakeStack) -> None:
    def twice(report: StepReport) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(make_stack(lag=1), quiet(), on_step=twice)

    for thread in rollout_threads():  # it ends by itself with the batch under way
        thread.join(30)


def test_resuming_a_finished_run_does_nothing(make_stack: MakeStack) -> None:
    train(make_stack(num_steps=2), quiet())
    again = train(make_stack(num_steps=2), quiet(), resume=True)
    longer = train(make_stack(num_steps=3), quiet(), resume=True)

    assert again.reports == ()
    assert not again.interrupted
    assert again.checkpoint is None
    assert [report.metrics.step for report in longer.reports] == [3]


def test_a_run_is_not_overwritten(make_stack: MakeStack) -> None:
    train(make_stack(num_steps=1), quiet())
    before = load_checkpoint(make_stack().checkpoint_folder)
    with pytest.raises(ConfigError, match=r"run 'run' has checkpoints in .*--resume.*another name") as error:
        train(make_stack(num_steps=1), quiet())

    assert "\n" not in str(error.value)
    after = load_checkpoint(make_stack().checkpoint_folder)
    assert all(torch.equal(value, after.weights.tensors[name]) for name, value in before.weights.tensors.items())


def test_there_must_be_something_to_resume(make_stack: MakeStack) -> None:
    with pytest.raises(CheckpointError, match="nothing to resume"):
        train(make_stack(), quiet(), resume=True)


def test_a_run_that_is_being_trained_is_left_alone(make_stack: MakeStack) -> None:
    """Also by one that would start anew, before the first has a checkpoint."""
    refusals: list[str] = []

    def train_again() -> None:
        for resume in (False, True):
            try:
                train(make_stack(), quiet(), resume=resume)
            except ConfigError as error:
                refusals.append(str(error))

    def meanwhile(report: StepReport) -> None:
        if report.metrics.step == 1:
            thread = threading.Thread(target=train_again)
            thread.start()
            thread.join()

    result = train(make_stack(lag=1), quiet(), on_step=meanwhile)

    assert len(refusals) == 2
    assert all("run 'run' is being trained by another thread" in refusal for refusal in refusals)
    assert [report.metrics.step for report in result.reports] == [1, 2, 3, 4]
