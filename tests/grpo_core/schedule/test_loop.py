from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import torch

from grpo_core.config import EnvironmentConfig, build_config
from grpo_core.environments.arithmetic import ArithmeticEnvironment
from grpo_core.errors import BatchError, CheckpointError, ConfigError, EpisodeError
from grpo_core.home import Home
from grpo_core.schedule.loop import StepReport, TrainResult, train
from grpo_core.schedule.stack import Stack, build_stack
from grpo_core.telemetry.events import Event, Telemetry
from grpo_core.training.checkpoint import load_checkpoint
from grpo_core.types import Batch, PolicyVersion, StepMetrics

MakeStack = Callable[..., Stack]

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


class Chatty(ArithmeticEnvironment):
    """Pays for long answers, which a random policy can give, unlike right ones."""

    def step(self, actions: Mapping[str, str]) -> None:
        super().step(actions)
        self._reward = float(len(actions["solver"]))


class Broken(Chatty):
    """The third batch of two times two episodes breaks it."""

    num_steps = 0

    def step(self, actions: Mapping[str, str]) -> None:
        Broken.num_steps += 1
        if Broken.num_steps > 2 * 4:
            raise ZeroDivisionError("a bug of the environment")
        super().step(actions)


class Worthless(Chatty):
    """Its rewards cannot be trained on."""

    def rewards(self) -> Mapping[str, float]:
        return {"solver": float("nan")}


def chatty(config: EnvironmentConfig) -> Chatty:
    return Chatty()


def broken(config: EnvironmentConfig) -> Broken:
    return Broken()


def worthless(config: EnvironmentConfig) -> Worthless:
    return Worthless()


class Memory:
    """A sink that keeps the events."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def write(self, event: Event) -> None:
        self.events.append(event)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.fixture
def make_stack(model_folder: Path, tmp_path: Path) -> MakeStack:
    def make(
        *,
        environment: str = f"{__name__}:chatty",
        home: str = "home",
        num_steps: int = 4,
        lag: int = 0,
        depth: int = 1,
        checkpoint_every: int = 50,
        learning_rate: float = 0.01,
        method: str = "lora",
    ) -> Stack:
        config = build_config(
            {
                "run": "run",
                "model": {"name": str(model_folder), "device": "cpu"} | ({"lora_rank": 4} if method == "lora" else {}),
                "environment": {"name": environment},
                "rollout": {"num_groups": 2, "group_size": 2, "max_completion_tokens": 8},
                "training": {"method": method, "learning_rate": learning_rate, "kl_coefficient": 0.01},
                "schedule": {
                    "num_steps": num_steps,
                    "max_policy_lag_steps": lag,
                    "buffer_depth": depth,
                    "checkpoint_every_steps": checkpoint_every,
                    "torch_threads": 1,
                },
            }
        )
        return build_stack(config, Home(tmp_path / home / "data", tmp_path / home / "traces"))

    return make


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """No rollout thread and no signal handler outlives a run."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
        assert rollout_threads() == []
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def rollout_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "rollout"]


def quiet() -> Telemetry:
    return Telemetry("run", [])


def losses(result: TrainResult) -> list[float]:
    return [report.metrics.loss for report in result.reports]


def interrupt_at(step: int) -> Callable[[StepReport], None]:
    """What Ctrl-C does, when ``step`` has ended."""

    def on_step(report: StepReport) -> None:
        if report.metrics.step == step:
            signal.raise_signal(signal.SIGINT)

    return on_step


def test_without_lag_a_run_is_on_policy_and_deterministic(make_stack: MakeStack) -> None:
    first, second = (train(make_stack(home=home), quiet()) for home in ("a", "b"))

    assert losses(first) == losses(second)
    assert len(set(losses(first))) == 4
    for report in first.reports:
        assert report.policy_lag_steps == 0
        assert report.buffer_depth == 1
        assert report.metrics.ratio_max == pytest.approx(1, abs=1e-4)
        assert report.metrics.num_tokenizer_calls == 0
    assert [report.metrics.step for report in first.reports] == [1, 2, 3, 4]
    assert not first.interrupted
    assert first.checkpoint is not None
    assert first.checkpoint.name == "step-000004"
    assert first.num_stale_dropped == 0


@pytest.mark.parametrize(("lag", "depth"), [(1, 1), (1, 2), (2, 1), (2, 3)])
def test_with_lag_nothing_older_than_the_budget_is_trained_on(lag: int, depth: int, make_stack: MakeStack) -> None:
    stack = make_stack(lag=lag, depth=depth, num_steps=8)
    result = train(stack, quiet())

    lags = [report.policy_lag_steps for report in result.reports]
    assert len(lags) == 8
    assert max(lags) <= lag
    assert max(report.buffer_depth for report in result.reports) <= depth
    assert [report.metrics.step for report in result.reports] == list(range(1, 9))
    kept = [version.number for version in stack.store.versions("run")]
    assert kept == list(range(9 - (lag + 2), 9))
    assert list(stack.buffer_folder.iterdir()) == []
    assert not result.interrupted


def test_published_versions_are_the_trainers(make_stack: MakeStack) -> None:
    stack = make_stack()
    train(stack, quiet())

    latest = stack.store.latest("run")
    assert latest is not None
    stored, own = stack.store.load(latest).tensors, stack.trainer.weights().tensors
    assert latest.number == stack.trainer.version == 4
    assert all(torch.equal(stored[name], own[name]) for name in own)


def test_events_tell_the_story_of_the_run(make_stack: MakeStack) -> None:
    memory = Memory()
    train(make_stack(num_steps=3), Telemetry("run", [memory]))

    kinds = [event.kind for event in memory.events]
    assert (kinds[0], kinds[-1]) == ("run_started", "run_finished")
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "run_started": 1,
        "adapter_load": 3,
        "rollout": 3,
        "train_step": 3,
        "adapter_publish": 3,
        "run_finished": 1,
    }
    steps = [event.fields for event in memory.events if event.kind == "train_step"]
    assert [(step["step"], step["policy_version"], step["policy_lag_steps"]) for step in steps] == [
        (1, 0, 0),
        (2, 1, 0),
        (3, 2, 0),
    ]


def test_a_skipped_step_is_told_and_the_run_goes_on(make_stack: MakeStack, monkeypatch: pytest.MonkeyPatch) -> None:
    stack, memory = make_stack(num_steps=4), Memory()
    step = stack.trainer.step

    def overflow(batch: Batch) -> StepMetrics:
        """The second batch has a gradient that is no number."""
        parameter = stack.trainer.optimizer.param_groups[0]["params"][0]
        handle = parameter.register_hook(lambda gradient: gradient / 0 if batch.index == 1 else gradient)
        metrics = step(batch)
        handle.remove()
        return metrics

    monkeypatch.setattr(stack.trainer, "step", overflow)
    result = train(stack, Telemetry("run", [memory]))

    assert [report.metrics.is_skipped for report in result.reports] == [False, True, False, False]
    (event,) = [event.fields for event in memory.events if event.kind == "step_skipped"]
    assert (event["step"], event["batch_index"], event["num_skipped_steps"]) == (2, 1, 1)
    assert "1-0-solver[0]" in str(event["nonfinite_trajectories"]).split("|")
    before, after = (stack.store.load(PolicyVersion("run", number)).tensors for number in (3, 4))
    assert not all(torch.equal(before[name], after[name]) for name in before)
    assert load_checkpoint(stack.checkpoint_folder).num_skipped_steps == 1
    # Version 2 is version 1 again: batch 2 was sampled from it, on policy.
    assert [report.policy_lag_steps for report in result.reports] == [0] * 4
    assert result.reports[2].metrics.ratio_max == pytest.approx(1, abs=1e-4)


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


@pytest.mark.parametrize(
    ("method", "lag", "depth"),
    [("lora", 0, 1), ("lora", 1, 1), ("lora", 1, 2), ("lora", 2, 3), ("full", 0, 1), ("full", 1, 2)],
)
def test_a_run_that_was_killed_repeats_its_steps_bit_for_bit(
    method: str, lag: int, depth: int, make_stack: MakeStack, tmp_path: Path
) -> None:
    """``killed`` is the home as it was in the middle of step 5, two steps after the last checkpoint."""
    options = {"method": method, "lag": lag, "depth": depth, "num_steps": 8, "checkpoint_every": 3}
    recorded: list[int] = []

    def copy(report: StepReport) -> None:
        if report.metrics.step == 5:
            shutil.copytree(tmp_path / "home", tmp_path / "killed", ignore=shutil.ignore_patterns(".*"))
            recorded.extend(int(path.stem[-6:]) for path in sorted((tmp_path / "killed").rglob("batch-*.arrow")))

    uninterrupted = train(make_stack(**options), quiet(), on_step=copy)
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


@pytest.mark.parametrize("lag", [0, 2])
def test_an_error_in_the_rollouts_reaches_the_caller(lag: int, make_stack: MakeStack) -> None:
    Broken.num_steps = 0
    stack = make_stack(environment=f"{__name__}:broken", lag=lag)
    with pytest.raises(EpisodeError, match="ZeroDivisionError: a bug of the environment"):
        train(stack, quiet())

    assert rollout_threads() == []
    assert stack.trainer.version <= 2


@pytest.mark.parametrize("lag", [0, 2])
def test_an_error_in_a_step_reaches_the_caller(lag: int, make_stack: MakeStack) -> None:
    with pytest.raises(BatchError, match="reward nan is not finite"):
        train(make_stack(environment=f"{__name__}:worthless", lag=lag), quiet())

    assert rollout_threads() == []


def test_an_error_of_the_caller_ends_the_rollouts(make_stack: MakeStack) -> None:
    def fail(report: StepReport) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train(make_stack(lag=1, num_steps=50), quiet(), on_step=fail)

    assert rollout_threads() == []


def test_checkpoints_are_written_on_the_way(make_stack: MakeStack) -> None:
    stack = make_stack(num_steps=5, checkpoint_every=2)
    seen: dict[int, list[str]] = {}

    def look(report: StepReport) -> None:
        folder = stack.checkpoint_folder
        seen[report.metrics.step] = sorted(path.name for path in folder.iterdir()) if folder.exists() else []

    result = train(stack, quiet(), on_step=look)

    assert seen == {1: [], 2: [], 3: ["step-000002"], 4: ["step-000002"], 5: ["step-000002", "step-000004"]}
    assert result.checkpoint is not None
    assert result.checkpoint.name == "step-000005"


def test_a_measurement_leaves_no_checkpoint(make_stack: MakeStack) -> None:
    stack = make_stack(num_steps=2, checkpoint_every=1)
    result = train(stack, quiet(), save_checkpoints=False)

    assert result.checkpoint is None
    assert not stack.checkpoint_folder.exists()


def test_a_run_leaves_the_number_of_torch_threads_as_it_was(make_stack: MakeStack) -> None:
    torch.set_num_threads(2)
    inside: list[int] = []
    try:
        train(make_stack(num_steps=1), quiet(), on_step=lambda report: inside.append(torch.get_num_threads()))
        assert inside == [1]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_a_run_may_be_started_from_another_thread(make_stack: MakeStack) -> None:
    """Where no signal handler can be installed."""
    results: list[TrainResult] = []
    stack = make_stack(num_steps=2, lag=1)
    thread = threading.Thread(target=lambda: results.append(train(stack, quiet())))
    thread.start()
    thread.join(60)

    assert len(results[0].reports) == 2
