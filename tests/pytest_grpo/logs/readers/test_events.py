from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from grpo_core.telemetry.events import Event
from grpo_core.telemetry.jsonl import JsonlSink
from pytest_grpo.logs.readers.formats import read_run
from pytest_grpo.logs.vocabulary.quantities import CYCLE, LAG, MEMORY, REWARD, ROLLOUT, STEP, TOKENS, part


@pytest.fixture
def sink(tmp_path: Path) -> Iterator[JsonlSink]:
    sink = JsonlSink(tmp_path / "run.jsonl")
    yield sink
    sink.close()


def write(sink: JsonlSink, kind: str, time_s: float, **fields: object) -> None:
    sink.write(Event(kind, time_s, "run", f"{kind}-{time_s}", fields))  # type: ignore[arg-type]


def steps(sink: JsonlSink, first: int, last: int, start_s: float = 0.0) -> None:
    """Each takes 2 s and waits 1 s for its batch, which took 3 s."""
    write(sink, "run_started", start_s, num_steps=last)
    for step in range(first, last + 1):
        end_s = start_s + 3.0 * (step - first + 1)
        rollout = {"duration_s": 3.0, "tokens_per_second": 100.0 + step, "reward_mean": 9.0}
        write(sink, "rollout", end_s - 2.0, batch_index=step - 1, **rollout)
        write(sink, "gpu_stats", end_s - 1.0, device_index=0, memory_used_bytes=1000 + step)
        write(sink, "gpu_stats", end_s - 0.5, device_index=1, memory_used_bytes=10)
        write(
            sink,
            "train_step",
            end_s,
            step=step,
            step_s=2.0,
            backward_ms=500.0,
            policy_lag_steps=1,
            reward_mean=math.nan if step == 2 else 0.5,
            peak_memory_bytes=2000,
        )
    write(sink, "run_finished", start_s + 100.0, num_steps=last, duration_s=100.0)


def test_a_step_has_its_own_event_its_rollout_and_the_memory_before_it(sink: JsonlSink, tmp_path: Path) -> None:
    steps(sink, 1, 4)
    run = read_run(tmp_path / "run.jsonl", "run")
    assert (run.stack, run.steps, run.starts) == ("grpo_core", (1, 2, 3, 4), (1,))
    assert run.columns[STEP] == (2.0,) * 4
    assert run.columns[part("backward")] == (0.5,) * 4
    assert run.columns[TOKENS] == (101.0, 102.0, 103.0, 104.0)
    assert run.columns[ROLLOUT] == (3.0,) * 4
    assert run.columns[MEMORY] == (1011.0, 1012.0, 1013.0, 1014.0)
    assert run.columns[LAG] == (1.0,) * 4
    assert run.columns[REWARD][0] == 0.5  # of the step, not of the rollout
    assert math.isnan(run.columns[REWARD][1])
    assert math.isnan(run.columns[CYCLE][0])
    assert run.columns[CYCLE][1:] == (3.0,) * 3
    assert run.notes == ("reward: left out: 1 value NaN or infinite",)


def test_a_resumed_run_starts_again_and_the_time_between_is_no_step(sink: JsonlSink, tmp_path: Path) -> None:
    steps(sink, 1, 4)
    steps(sink, 4, 6, start_s=5000.0)
    run = read_run(tmp_path / "run.jsonl", "run")
    assert (run.steps, run.starts) == ((1, 2, 3, 4, 5, 6), (1, 4))
    assert "1 step logged again (4 to 4): the later ones count" in run.notes
    assert max(value for value in run.columns[CYCLE] if not math.isnan(value)) == 3.0


def test_a_run_that_was_killed_while_it_wrote(sink: JsonlSink, tmp_path: Path) -> None:
    steps(sink, 1, 3)
    file = tmp_path / "run.jsonl"
    file.write_text(file.read_text() + '{"_time": "2026-01-01T00:00:00Z", "time": 1.0, "kind": "train_st')
    run = read_run(file, "run")
    assert run.steps == (1, 2, 3)
    assert run.notes[0] == "the last line is cut off and left out"


def test_events_without_a_step_are_one_line(sink: JsonlSink, tmp_path: Path) -> None:
    write(sink, "run_started", 0.0, num_steps=3)
    write(sink, "train_step", 1.0, step=None)
    with pytest.raises(pytest.UsageError, match=r"^run: no training step in it, read as events of grpo_core; name"):
        read_run(tmp_path / "run.jsonl", "run")


def test_fields_of_other_types_are_passed_over(tmp_path: Path) -> None:
    event = {"_time": "x", "time": "soon", "kind": "train_step", "run": "r", "step": 1, "step_s": "2"}
    (tmp_path / "run.jsonl").write_text(
        "".join(f"{json.dumps(event | more)}\n" for more in ({}, {"step": 2, "step_s": 2.0}))
    )
    assert read_run(tmp_path / "run.jsonl", "run").steps == (2,)
