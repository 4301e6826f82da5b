from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from grpo_core.errors import BatchError, EpisodeError, HomeError
from grpo_core.lora.store import AdapterStore
from grpo_core.rollout.protocol import AdapterSwap
from grpo_core.schedule.loop import train
from grpo_core.schedule.reports import StepReport, TrainResult
from grpo_core.schedule.stack import Stack
from grpo_core.telemetry.events import Event, Telemetry
from grpo_core.training.checkpoint.checkpoint import load_checkpoint
from grpo_core.types import Batch, PolicyVersion, PolicyWeights, StepMetrics
from tests.grpo_core.schedule import environments
from tests.grpo_core.schedule.run import losses, quiet, rollout_threads

MakeStack = Callable[..., Stack]

pytestmark = pytest.mark.usefixtures("nothing_is_left")


class Memory:
    """A sink that keeps the events."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def write(self, event: Event) -> None:
        self.events.append(event)

    def flush(self) -> None:
        pass

    def begin_close(self) -> None:
        pass

    def close(self) -> None:
        pass


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


def test_a_run_that_keeps_no_reports_does_not_grow_by_them(make_stack: MakeStack) -> None:
    """A run of days has a million of them, of 2 kB each."""
    num_held: list[int] = []

    def on_step(report: StepReport) -> None:
        gc.collect()
        num_held.append(sum(isinstance(each, StepReport | StepMetrics) for each in gc.get_objects()))

    result = train(make_stack(num_steps=8), quiet(), on_step=on_step, keep_reports=False)

    assert (result.reports, result.num_steps, result.interrupted) == ((), 8, False)
    assert num_held[-1] - num_held[0] <= 2  # what the loop has in hand; else seven reports and their metrics more


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


def test_no_step_waits_for_the_disk(make_stack: MakeStack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each version is sampled from before it is on disk, and all are on disk in the end."""
    stack = make_stack()
    used = [threading.Event() for _ in range(5)]
    late: list[int] = []
    write, use = AdapterStore.publish, stack.collector.use_version

    def publish(store: AdapterStore, weights: PolicyWeights) -> Path:
        number = weights.version.number
        if number < 4 and not used[number].wait(timeout=20):  # nothing samples from the last one
            late.append(number)
        return write(store, weights)

    def use_version(number: int) -> AdapterSwap:
        swap = use(number)
        used[number].set()
        return swap

    monkeypatch.setattr(AdapterStore, "publish", publish)
    monkeypatch.setattr(stack.collector, "use_version", use_version)
    train(stack, quiet())

    assert late == []
    assert [version.number for version in stack.store.versions("run")] == [3, 4]


def test_a_version_that_cannot_be_written_ends_the_run(make_stack: MakeStack, monkeypatch: pytest.MonkeyPatch) -> None:
    write = AdapterStore.publish

    def publish(store: AdapterStore, weights: PolicyWeights) -> Path:
        if weights.version.number == 2:
            raise HomeError("cannot write: no space left")
        return write(store, weights)

    whole = train(make_stack(home="whole"), quiet())
    with monkeypatch.context() as patch:
        patch.setattr(AdapterStore, "publish", publish)
        with pytest.raises(HomeError, match="no space left"):
            train(make_stack(), quiet())
    resumed = train(make_stack(), quiet(), resume=True)

    assert losses(resumed) == losses(whole)[-len(resumed.reports) :]
    assert len(resumed.reports) < 4


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
        "samples": 1,
        "adapter_publish": 3,
        "ledger": 3 * 3 + 2,  # three threads; what the two that outlive a step did after the last one
        "token_ledger": 3,
        "figures": 3,
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


@pytest.mark.parametrize("lag", [0, 2])
def test_an_error_in_the_rollouts_reaches_the_caller(lag: int, make_stack: MakeStack) -> None:
    environments.Broken.num_steps = 0
    stack = make_stack(environment=f"{environments.__name__}:broken", lag=lag)
    with pytest.raises(EpisodeError, match="ZeroDivisionError: a bug of the environment"):
        train(stack, quiet())

    assert rollout_threads() == []
    assert stack.trainer.version <= 2


@pytest.mark.parametrize("lag", [0, 2])
def test_an_error_in_a_step_reaches_the_caller(
    lag: int, make_stack: MakeStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise BatchError("it cannot be trained on")

    stack = make_stack(lag=lag)
    monkeypatch.setattr("grpo_core.training.trainer.check_batch", fail)
    with pytest.raises(BatchError, match="it cannot be trained on"):
        train(stack, quiet())

    assert rollout_threads() == []


@pytest.mark.parametrize("lag", [0, 2])
def test_a_reward_that_is_no_number_reaches_the_caller(lag: int, make_stack: MakeStack) -> None:
    with pytest.raises(EpisodeError, match=r"environment '.*:worthless' .*: rewards\(\) gave agent 'solver' nan"):
        train(make_stack(environment=f"{environments.__name__}:worthless", lag=lag), quiet())

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

    first, second = "step-000001", "step-000002"
    assert seen == {1: [], 2: [first], 3: [first, second], 4: [first, second], 5: [second, "step-000004"]}
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
