"""Each moment of a thread belongs to one span, by construction."""

from __future__ import annotations

import threading

import pytest

from grpo_core.ledger import recorder as recorder_module
from grpo_core.ledger import spans
from grpo_core.ledger.account import OTHER, Account, merged
from grpo_core.ledger.recorder import adopt, bound, lane_name, recording, recording_beside


class Clock:
    """Says what a test sets."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def perf_counter(self) -> float:
        return self.now_s

    def time(self) -> float:
        return 1000.0 + self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(recorder_module, "time", clock)
    return clock


def test_an_inner_span_pauses_the_outer_one(clock: Clock) -> None:
    with recording("trainer-0", "train") as recorder:
        clock.now_s = 1  # nothing is open
        with spans.DECODE:
            clock.now_s = 3
            with spans.DRAW:
                clock.now_s = 6
                with spans.DECODE:  # the same one again, further in
                    clock.now_s = 10
            clock.now_s = 15
        clock.now_s = 21
        (account,) = recorder.cut()

    assert account.seconds == {OTHER: 7, "sample.decode": 2 + 4 + 5, "sample.draw": 3}
    assert account.wall_s == sum(account.seconds.values()) == 21
    assert account.other_s == 7
    assert account.started_s == 1000


def test_an_error_leaves_the_span(clock: Clock) -> None:
    with recording("trainer-0", "train") as recorder:
        with pytest.raises(ZeroDivisionError):
            _fail(clock)
        clock.now_s = 5
        (account,) = recorder.cut()

    assert account.seconds == {OTHER: 3, "sample.decode": 0, "sample.draw": 2}


def _fail(clock: Clock) -> None:
    with spans.DECODE, spans.DRAW:
        clock.now_s = 2
        raise ZeroDivisionError


def test_a_cut_inside_of_a_span_splits_it(clock: Clock) -> None:
    with recording("trainer-0", "train") as recorder, spans.CHECKPOINT:
        clock.now_s = 2
        (first,) = recorder.cut()
        clock.now_s = 5
        (second,) = recorder.cut()

    assert (first.seconds["checkpoint"], second.seconds["checkpoint"]) == (2, 3)
    assert (first.started_s, second.started_s) == (1000, 1002)


def test_a_thread_without_a_recorder_is_not_recorded() -> None:
    assert bound.recorder is None
    with spans.DECODE, spans.DRAW:
        adopt([Account("worker-0", "rollout", 0.0, 1.0)])
    with recording_beside("environments", "wait.answers") as begin:
        begin()
        assert bound.recorder is None


def test_a_recorder_belongs_to_its_thread() -> None:
    with recording("trainer-0", "train"):
        found: list[object] = []
        thread = threading.Thread(target=lambda: found.append(bound.recorder))
        thread.start()
        thread.join()
    assert found == [None]


def test_a_thread_beside_waits_while_no_span_is_open(clock: Clock) -> None:
    with recording("trainer-0", "rollout") as recorder:
        for _ in range(2):
            with recording_beside("environments", "wait.answers") as begin:
                thread = threading.Thread(target=_work, args=(clock, begin))
                thread.start()
                thread.join()
        own, beside = recorder.cut()

    assert (own.process, own.thread, own.wall_s) == ("trainer-0", "rollout", 14)
    assert (beside.process, beside.thread, beside.wall_s) == ("trainer-0", "environments", 14)
    assert beside.seconds == {"wait.answers": 2 * 3, OTHER: 2 * 1, "sample.environment": 2 * 3}
    assert beside.idle_s == 6


def _work(clock: Clock, begin: object) -> None:
    assert callable(begin)
    begin()
    clock.now_s += 3
    with spans.UNNAMED:
        clock.now_s += 1
        with spans.ENVIRONMENT:
            clock.now_s += 3


def test_an_inner_recording_counts_in_the_outer_one_that_asks(clock: Clock) -> None:
    for with_inner, expected in ((True, {OTHER: 1 + 2, "train.forward": 6, "publish": 4}), (False, {OTHER: 13})):
        clock.now_s = 0
        with recording("arm", "arm", with_inner=with_inner) as outer:
            clock.now_s = 1
            with recording("trainer-0", "train") as inner:
                with spans.FORWARD:
                    clock.now_s = 7
                inner.cut()
                with spans.PUBLISH:
                    clock.now_s = 11
            clock.now_s = 13
            (account,) = outer.cut()
        assert {name: seconds for name, seconds in account.seconds.items() if seconds} == expected
        assert account.wall_s == 13


def test_accounts_of_one_thread_are_one(clock: Clock) -> None:
    with recording("trainer-0", "train") as recorder:
        clock.now_s = 4
        recorder.adopt([Account("worker-1", "rollout", 1001.0, 2.0, {"sample.decode": 2.0})])
        recorder.adopt([Account("worker-1", "rollout", 1000.5, 0.5, {"sample.decode": 0.25, OTHER: 0.25})])
        own, worker = recorder.cut()
        assert len(recorder.cut()) == 1  # they were handed out

    assert own.thread == "train"
    assert worker == Account("worker-1", "rollout", 1000.5, 2.5, {"sample.decode": 2.25, OTHER: 0.25})


def test_the_lane_shows_parts_and_waits(clock: Clock) -> None:
    with recording("trainer-0", "rollout") as recorder:
        for end_s, span in ((1, spans.PREFILL), (3, spans.DECODE), (4, spans.WAIT_ENGINE), (9, spans.STORE)):
            with span:
                clock.now_s = end_s
        clock.now_s = 10
        (account,) = recorder.cut()

    found = [(part.name, part.start_s, part.seconds) for part in account.lane]
    assert found == [("sample", 0, 3), ("wait.engine", 3, 1), ("store", 4, 5), ("other", 9, 1)]


@pytest.mark.parametrize("span", spans.SPANS, ids=lambda span: span.name)
def test_each_span_has_a_column_of_its_own(span: spans.Span) -> None:
    assert [other.column for other in spans.SPANS].count(span.column) == 1
    assert lane_name(span.name) == (span.name if span.is_wait else span.name.partition(".")[0])


def test_nothing_is_merged_where_threads_differ() -> None:
    accounts = [Account("trainer-0", "train", 2.0, 1.0), Account("trainer-1", "train", 1.0, 1.0)]
    assert merged(accounts) == accounts[::-1]
