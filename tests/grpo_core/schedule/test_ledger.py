"""The ledger of a run adds up to its wall clock, whatever its schedule."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from grpo_core.schedule import loop, rollout_thread
from grpo_core.schedule.loop import train
from grpo_core.schedule.stack import Stack
from grpo_core.telemetry.events import Event, Telemetry
from tests.grpo_core.ledger.identity import check_identity

MakeStack = Callable[..., Stack]

pytestmark = pytest.mark.usefixtures("nothing_is_left")

NUM_STEPS = 6


class Memory:
    """A sink that keeps the events as a file has them."""

    def __init__(self) -> None:
        self.records: list[Mapping[str, Any]] = []

    def write(self, event: Event) -> None:
        self.records.append(event.record())

    def flush(self) -> None:
        pass

    def begin_close(self) -> None:
        pass

    def close(self) -> None:
        pass


def timed(function: Callable[..., Any], walls_s: list[float]) -> Callable[..., Any]:
    """``function``, with another clock around each call."""

    def run(*arguments: Any, **options: Any) -> Any:
        start_s = time.monotonic()
        try:
            return function(*arguments, **options)
        finally:
            walls_s.append(time.monotonic() - start_s)

    return run


@pytest.mark.parametrize(("lag", "depth"), [(0, 1), (2, 2)], ids=["sync", "overlapped"])
def test_spans_and_other_are_the_wall_clock(
    lag: int, depth: int, make_stack: MakeStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    walls_s: dict[str, list[float]] = {"train": [], "rollout": []}
    monkeypatch.setattr(loop, "_train", timed(loop._train, walls_s["train"]))
    monkeypatch.setattr(rollout_thread, "_produce", timed(rollout_thread._produce, walls_s["rollout"]))
    memory = Memory()
    train(make_stack(lag=lag, depth=depth, num_steps=NUM_STEPS), Telemetry("run", [memory]))

    threads = check_identity(memory.records)
    assert set(threads) == {("trainer-0", thread) for thread in ("train", "rollout", "environments")}
    for (_, thread), events in threads.items():
        assert {event["step"] for event in events} == set(range(1, NUM_STEPS + 1))
        if thread != "environments":
            (wall_s,) = walls_s[thread]
            assert sum(event["wall_s"] for event in events) == pytest.approx(wall_s, rel=0.01, abs=0.02)


def test_waits_are_where_the_schedule_makes_them(make_stack: MakeStack) -> None:
    """Without lag both sides take turns: each waits for all that the other does."""
    memory = Memory()
    train(make_stack(num_steps=NUM_STEPS), Telemetry("run", [memory]))
    threads = check_identity(memory.records)
    trains, plays = threads["trainer-0", "train"], threads["trainer-0", "rollout"]

    trained_s = sum(event["train_forward_s"] + event["train_backward_s"] for event in trains[:-2])
    assert sum(event["wait_room_s"] for event in plays) > trained_s > 0
    played_s = sum(event["sample_decode_s"] + event["sample_draw_s"] for event in plays[1:])
    assert sum(event["wait_batch_s"] for event in trains) > played_s > 0


def test_a_wait_that_no_span_names_is_other(make_stack: MakeStack, monkeypatch: pytest.MonkeyPatch) -> None:
    stack, waited_s = make_stack(num_steps=2), 0.2
    find = stack.trainer._find_logprobs

    def find_late(*arguments: Any) -> Any:
        time.sleep(waited_s)
        return find(*arguments)

    monkeypatch.setattr(stack.trainer, "_find_logprobs", find_late)
    memory = Memory()
    train(stack, Telemetry("run", [memory]))
    trains = check_identity(memory.records)["trainer-0", "train"]
    assert [event["other_s"] >= waited_s for event in trains] == [True, True, False]
