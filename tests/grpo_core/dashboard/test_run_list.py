from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from grpo_core.dashboard.run_list import RunList
from grpo_core.home import Home
from grpo_core.schedule.runs.lock import hold_run
from tests.grpo_core.dashboard.conftest import START_S, WriteRun, event


@pytest.mark.parametrize(
    ("num_steps", "is_finished", "is_held", "status"),
    [(4, True, False, "done"), (3, True, False, "stopped"), (3, False, False, "failed"), (3, False, True, "running")],
)
def test_the_state_of_a_run(
    home: Home, write_run: WriteRun, num_steps: int, is_finished: bool, is_held: bool, status: str
) -> None:
    write_run("r", num_steps, is_finished=is_finished)
    if is_held:
        with hold_run(home, "r"):
            line = RunList(home).line("r")
    else:
        line = RunList(home).line("r")
    assert line is not None
    assert (line.status, line.step, line.num_steps) == (status, num_steps, 4)
    assert (line.model, line.environment) == ("tiny", "arithmetic")
    assert line.reward == num_steps / 10
    assert line.steps_per_hour == pytest.approx(1800)
    assert line.eta_s == (pytest.approx(2.0) if is_held else None)


def test_a_resumed_run_is_judged_by_its_last_start(home: Home, write_run: WriteRun) -> None:
    write_run("r", 4, is_finished=True)
    write_run("r", 2, asked=10, is_finished=False)
    line = RunList(home).line("r")
    assert line is not None
    assert (line.status, line.step, line.num_steps) == ("failed", 2, 10)


def test_the_run_that_is_trained_comes_first_then_the_newest(home: Home, write_run: WriteRun) -> None:
    write_run("long", 9, asked=9)
    write_run("short", 2, asked=2)
    write_run("busy", 1, is_finished=False)
    with hold_run(home, "busy"):
        names = [line.name for line in RunList(home).lines()]
    assert names == ["busy", "long", "short"]


def test_of_a_long_file_only_the_ends_are_read(home: Home, write_run: WriteRun) -> None:
    path = write_run("r", 1, is_finished=False)
    with path.open("ab") as file:
        file.truncate(1 << 40)  # a hole: a terabyte that takes no place
        file.seek(0, os.SEEK_END)
        file.write(b"\n" + json.dumps(event("train_step", 9.0, step=3, reward_mean=0.5)).encode() + b"\n")
    line = RunList(home).line("r")
    assert line is not None
    assert (line.step, line.reward, line.changed_s) == (3, 0.5, START_S + 9.0)


@pytest.mark.parametrize(
    "content", [b"", b"\x00" * 100, b'{"kind": "train_step"', b'{"kind": "train_step", "step": "<b>"}\n']
)
def test_a_file_that_says_nothing_is_a_run_of_which_nothing_is_known(home: Home, content: bytes) -> None:
    home.events.mkdir(parents=True)
    (home.events / "r.jsonl").write_bytes(content)
    (line,) = RunList(home).lines()
    assert (line.name, line.status, line.step, line.reward, line.changed_s) == ("r", "failed", None, None, None)


def test_names_that_are_none_of_a_run_are_left_out(home: Home, write_run: WriteRun) -> None:
    write_run("good")
    for name in ("<script>alert(1)", ".hidden", "a b", "x" * 200):
        (home.events / f"{name}.jsonl").write_bytes(b"")
    os.mkfifo(home.events / "pipe.jsonl")
    (home.events / "folder.jsonl").mkdir()
    assert [line.name for line in RunList(home).lines()] == ["good"]


def test_a_removed_run_is_gone(home: Home, write_run: WriteRun) -> None:
    path = write_run("r")
    runs = RunList(home)
    assert runs.line("r") is not None
    path.unlink()
    assert runs.line("r") is None
    assert runs.lines() == []


def test_a_home_without_a_folder_has_no_runs(tmp_path: Path) -> None:
    assert RunList(Home(tmp_path / "no", tmp_path / "no")).lines() == []
