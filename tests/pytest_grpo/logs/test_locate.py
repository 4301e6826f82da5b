from __future__ import annotations

from pathlib import Path

import pytest

from pytest_grpo.logs.locate import locate


@pytest.fixture
def events(tmp_path: Path) -> Path:
    folder = tmp_path / "home" / "data" / "events"
    folder.mkdir(parents=True)
    return folder


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}\n")


def test_a_file_is_itself(tmp_path: Path, events: Path) -> None:
    touch(tmp_path / "a.log")
    assert locate(str(tmp_path / "a.log"), events) == tmp_path / "a.log"


def test_a_name_is_a_run_of_the_home(events: Path) -> None:
    touch(events / "first.jsonl")
    assert locate("first", events) == events / "first.jsonl"


@pytest.mark.parametrize(
    ("files", "found"),
    [
        (["run-ab12.wandb", "files/config.yaml"], "run-ab12.wandb"),
        (["offline-run-20260101_000000-ab12/run-ab12.wandb"], "offline-run-20260101_000000-ab12/run-ab12.wandb"),
        (["wandb/run-20260101_000000-ab12/run-ab12.wandb"], "wandb/run-20260101_000000-ab12/run-ab12.wandb"),
        (["trainer_state.json", "checkpoint-9/trainer_state.json"], "trainer_state.json"),
        (["checkpoint-9/trainer_state.json", "checkpoint-10/trainer_state.json"], "checkpoint-10/trainer_state.json"),
        (["metrics.jsonl", "config.yaml"], "metrics.jsonl"),
    ],
)
def test_a_folder_is_the_log_that_it_holds(tmp_path: Path, events: Path, files: list[str], found: str) -> None:
    touch(*(tmp_path / "run" / file for file in files))
    assert locate(str(tmp_path / "run"), events) == tmp_path / "run" / found


def test_a_folder_with_several_logs_names_them(tmp_path: Path, events: Path) -> None:
    touch(*(tmp_path / "runs" / f"run{number}.jsonl" for number in range(10)))
    with pytest.raises(pytest.UsageError) as error:
        locate(str(tmp_path / "runs"), events)
    assert str(error.value).startswith(f"{tmp_path / 'runs'}: has 10 logs: run0.jsonl, run1.jsonl, ")
    assert str(error.value).endswith(" and 2 more; name one of them")


def test_what_is_not_there_is_one_line(tmp_path: Path, events: Path) -> None:
    with pytest.raises(pytest.UsageError, match=r"^nowhere: no such file or folder, and no run in .*; it has none$"):
        locate("nowhere", events)
    touch(events / "first.jsonl")
    with pytest.raises(pytest.UsageError, match=r"; its runs are first$"):
        locate("frist", events)
    (tmp_path / "empty").mkdir()
    with pytest.raises(pytest.UsageError, match=r"the folder has no run-\*\.wandb, trainer_state\.json or \*\.jsonl"):
        locate(str(tmp_path / "empty"), events)
