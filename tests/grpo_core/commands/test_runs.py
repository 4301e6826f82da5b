"""``grpo runs``: what is on disk, and what ``--prune`` takes away."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import torch

from grpo_core.cli import main
from grpo_core.home import Home
from grpo_core.lora.store import AdapterStore
from grpo_core.schedule.runs.lock import hold_run
from grpo_core.schedule.runs.stored_runs import DAY_S, remove_remains, remove_run, stored_runs
from grpo_core.types import Adapter, PolicyVersion


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("GRPO_HOME", str(tmp_path))
    return Home.from_environment()


def publish(home: Home, run: str, value: float) -> None:
    tensors = {"a.lora_A.weight": torch.full((1, 2), value), "a.lora_B.weight": torch.zeros(2, 1)}
    AdapterStore(home.adapters).publish(Adapter(PolicyVersion(run, 1), "model", 1, 1.0, ("a",), tensors))


def leave(home: Home, run: str, days_ago: float) -> None:
    """Files of a run that was last changed so many days ago."""
    for path in (
        home.checkpoints / run / "step-000001" / "state.json",
        home.buffer / run / "batch-000001.arrow",
        home.events / f"{run}.jsonl",
        home.events / f"{run}.jsonl.1",
        home.deliveries / f"{run}.axiom.json",
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 1000)
    publish(home, run, float(len(run)))
    changed_s = time.time() - days_ago * DAY_S
    for path in home.data.rglob(f"*{run}*"):
        for each in (path, *path.rglob("*")):
            os.utime(each, (changed_s, changed_s))


def files(home: Home, run: str) -> list[str]:
    return [str(path.relative_to(home.data)) for path in home.data.rglob(f"*{run}*") if path.suffix != ".lock"]


def test_the_runs_are_listed(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    leave(home, "older", 3)
    leave(home, "newer", 1)
    (home.events / "no name.jsonl").write_text("")
    with hold_run(home, "newer"):
        found = stored_runs(home)
        assert [(one.name, one.step, one.num_bytes) for one in found] == [("newer", None, 5000), ("older", None, 5000)]
        assert main(["runs"]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert any("older" in line and "training" not in line for line in lines)
    assert any("newer" in line and "training" in line for line in lines)
    assert [one.state for one in found] == ["training", "-"]
    assert [one.state for one in stored_runs(home)] == ["-", "-"]
    assert files(home, "older")


def test_old_runs_are_removed_and_nothing_else(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    for run, days_ago in (("ancient", 40), ("recent", 20)):
        leave(home, run, days_ago)
    leave(home.measured, "measured", 40)
    kept = files(home, "recent")
    assert main(["runs", "--prune"]) == 0

    assert files(home, "ancient") == []
    assert files(home.measured, "measured") == []
    assert files(home, "recent") == kept
    assert AdapterStore(home.adapters).load(PolicyVersion("recent", 1)).version.number == 1
    assert len(list((home.adapters / "objects").iterdir())) == 1
    assert "removed ancient: 0.0 MiB" in capsys.readouterr().out
    assert main(["runs", "--prune", "--days", "10"]) == 0
    assert files(home, "recent") == []


def test_a_link_is_removed_and_not_what_it_leads_to(home: Home, tmp_path: Path) -> None:
    leave(home, "linked", 40)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("")
    (home.buffer / "linked" / "inner").symlink_to(outside)
    (home.checkpoints / "linked" / "step-000001").rename(outside / "step-000001")
    (home.checkpoints / "linked").rmdir()
    (home.checkpoints / "linked").symlink_to(outside)
    remove_run(home, "linked")

    assert sorted(path.name for path in outside.iterdir()) == ["precious", "step-000001"]
    assert files(home, "linked") == []


def test_remains_of_killed_processes_are_removed_when_they_are_old(home: Home) -> None:
    folder = home.checkpoints / "x"
    for name, days_ago in ((".step-000001.abc", 2), (".step-000002.abc", 0)):
        (folder / name).mkdir(parents=True)
        (folder / name / "file").write_text("")
        changed_s = time.time() - days_ago * DAY_S
        os.utime(folder / name, (changed_s, changed_s))

    assert remove_remains(home) == 1
    assert [path.name for path in folder.iterdir()] == [".step-000002.abc"]


def test_a_bad_age_is_one_line(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    for days in ("-1", "nan", "1e9"):
        assert main(["runs", "--prune", "--days", days]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("grpo: error: --days ")
