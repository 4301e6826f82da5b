"""``grpo wandb push`` into an offline file, read back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from grpo_core.cli import main
from pytest_grpo.logs.readers.wandb_frames import messages

ROW = {"metric": "speedup", "verdict": "fail", "measured": 1.5, "low": 1.4, "high": 1.6, "threshold": ">= 2"}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRPO_HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    path = tmp_path / "data/baselines/before.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"results": [["bench/t.py::test_a", ROW]], "fingerprint": {"commit": "c0ffee"}}))
    return tmp_path


@pytest.mark.slow
def test_the_offline_file_has_the_table_and_the_page(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    import wandb
    from wandb.proto.wandb_internal_pb2 import Record  # pyright: ignore[reportAttributeAccessIssue]

    page = home / "report.html"
    page.write_text("<!DOCTYPE html>")
    assert main(["wandb", "push", "before", "--html", str(page)]) == 0
    wandb.teardown()
    assert "send it with: wandb sync" in capfd.readouterr().out
    (file,) = home.glob("data/wandb/offline-run-*/run-*.wandb")
    records = [Record.FromString(message) for message in messages(file.read_bytes())]
    (run,) = [record.run for record in records if record.HasField("run")]
    assert (run.display_name, run.job_type) == ("before", "verdicts")
    paths = {entry.path for record in records for entry in record.artifact.manifest.contents}
    paths |= {
        entry.path
        for record in records
        for entry in record.request.log_artifact.artifact.manifest.contents
        if record.HasField("request")
    }
    assert {"before.json", "report.html", "verdicts.table.json"} <= paths
    (table,) = home.glob("data/wandb/offline-run-*/files/media/table/verdicts*.table.json")
    stored = json.loads(table.read_text())
    assert stored["data"][0][:4] == ["bench/t.py::test_a", "speedup", "fail", 1.5]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["after"], "after: no stored baseline of this name; there are: before"),
        (["before", "--html", "no.html"], "--html no.html: no such file; pytest --grpo-html no.html writes it"),
        (["../before"], "only letters, digits"),
    ],
)
def test_a_mistake_is_one_line(home: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], line: str) -> None:
    assert main(["wandb", "push", *arguments]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert line in error


def test_without_w_and_b_it_says_what_to_set(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    assert main(["wandb", "push", "before"]) == 2
    assert "set WANDB_API_KEY, or WANDB_MODE=offline" in capsys.readouterr().err
