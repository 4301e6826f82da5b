from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from torch.profiler import record_function

from grpo_core.errors import HomeError, SnapshotError
from grpo_core.telemetry.traces.profiler import read_trace, trace


def test_annotations_of_every_thread_are_in_the_trace(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    go = threading.Event()

    def roll_out() -> None:
        go.wait(30)
        with record_function("rollout"):
            torch.ones(8, 8).sum()

    older = threading.Thread(target=roll_out)  # started before the profiler
    older.start()
    with trace(tmp_path / "t"):
        go.set()
        with record_function("loss_forward"):
            torch.ones(8, 8).sum()
        with record_function("loss_forward"):
            pass
        older.join()

    summary = read_trace(tmp_path / "t")
    assert {name: found.count for name, found in summary.annotations.items()} == {"rollout": 1, "loss_forward": 2}
    assert all(found.total_ms > 0 for found in summary.annotations.values())
    assert summary.num_events > 3
    assert read_trace(tmp_path / "t/trace.json") == summary
    assert [file.name for file in (tmp_path / "t").iterdir()] == ["trace.json"]
    assert capfd.readouterr() == ("", "")


def test_a_disabled_trace_writes_nothing(tmp_path: Path) -> None:
    with trace(tmp_path / "t", enabled=False), record_function("rollout"):
        pass

    assert not (tmp_path / "t").exists()
    with pytest.raises(SnapshotError, match="No such file"):
        read_trace(tmp_path / "t")


def test_a_block_that_fails_leaves_the_older_trace(tmp_path: Path) -> None:
    with trace(tmp_path), record_function("first"):
        pass
    with pytest.raises(ZeroDivisionError), trace(tmp_path):
        _ = 1 / 0

    assert set(read_trace(tmp_path).annotations) == {"first"}


def test_a_folder_that_cannot_be_made_is_known_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    worked = []
    with pytest.raises(HomeError, match="cannot write"), trace(tmp_path / "file/t"):
        worked.append(1)

    assert worked == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"traceEvents": [{"name": "x"',
        b"[]",
        b"{}",
        b'{"traceEvents": [{"cat": "user_annotation"}]}',
        b"\xff\xfe",
    ],
)
def test_a_damaged_trace_is_one_clear_line(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "trace.json"
    file.write_bytes(content)

    with pytest.raises(SnapshotError, match=r"not a Chrome trace .*; delete it and profile again") as caught:
        read_trace(file)

    assert "\n" not in str(caught.value)
    assert str(file) in str(caught.value)
