from __future__ import annotations

import json
import math
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grpo_core.config import GrpoConfig, build_config
from grpo_core.errors import HomeError, InvalidNameError
from grpo_core.home import Home
from grpo_core.telemetry import Event, Telemetry, open_telemetry
from grpo_core.telemetry.events import finite, iso_utc
from grpo_core.telemetry.jsonl import JsonlSink


def read_lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def home_in(folder: Path) -> Home:
    return Home(data=folder / "data", traces=folder / "traces")


def test_a_record_is_flat_and_has_an_iso_time_in_utc() -> None:
    record = Event("rollout", 0.25, "r", "a-1", {"batch_index": 3, "reward_mean": math.nan}).record()

    assert record == {
        "_time": "1970-01-01T00:00:00.250000Z",
        "time": 0.25,
        "id": "a-1",
        "kind": "rollout",
        "run": "r",
        "batch_index": 3,
        "reward_mean": None,
    }


def test_finite_replaces_at_any_depth_and_keeps_the_rest() -> None:
    value = {"a": [math.inf, 1.5, {"b": (-math.inf, "x", True, None)}]}

    assert finite(value) == {"a": [None, 1.5, {"b": [None, "x", True, None]}]}


def test_a_reserved_field_is_refused(tmp_path: Path) -> None:
    with (
        Telemetry("r", [JsonlSink(tmp_path / "e.jsonl")]) as telemetry,
        pytest.raises(AssertionError, match="may not be called"),
    ):
        telemetry.emit("rollout", run="other")


def test_an_event_is_in_the_file_before_emit_returns(tmp_path: Path) -> None:
    config = build_config({"run": "abc", "telemetry": {"axiom": "off", "wandb": "off"}})
    with open_telemetry(config, home_in(tmp_path)) as telemetry:
        telemetry.emit("rollout", batch_index=1, tokens_per_second=math.inf)

        (line,) = read_lines(tmp_path / "data/events/abc.jsonl")

    assert (line["kind"], line["run"], line["batch_index"], line["tokens_per_second"]) == ("rollout", "abc", 1, None)


def test_a_second_run_of_the_same_name_appends(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    for number in range(2):
        with Telemetry("r", [JsonlSink(path)]) as telemetry:
            telemetry.emit("run_finished", num_steps=number)

    assert [line["num_steps"] for line in read_lines(path)] == [0, 1]


def test_a_torn_last_line_does_not_spoil_the_next_event(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    path.write_text('{"kind": "roll')
    with Telemetry("r", [JsonlSink(path)]) as telemetry:
        telemetry.emit("run_finished", num_steps=7)

    assert json.loads(path.read_text().splitlines()[1])["num_steps"] == 7


@pytest.mark.parametrize(
    "value",
    [1.5, math.nan, -math.inf, True, None, "x", "\u2028\n\x00", "\ud800", 10**30, -(10**30), 2**64 - 1, np.float64(0.1),
     [1.0, math.nan, [math.inf]], {"a": {"b": math.nan}}, 5e-324, 1e308, 0.1 + 0.2],
    ids=lambda value: ascii(value)[:20],
)  # fmt: skip
def test_a_line_is_the_record(value: Any) -> None:
    """Whichever way it is written, with all digits."""
    event = Event("rollout", 1764460000.123456, "r", "a-1", {"first": value, "last": 3})
    line = event.line()
    assert line.endswith(b"}\n")
    assert line.count(b"\n") == 1
    assert json.loads(line) == event.record()


def test_threads_emit_whole_lines_and_lose_none(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    with Telemetry("r", [JsonlSink(path)]) as telemetry:

        def emit_many(name: str) -> None:
            for index in range(200):
                telemetry.emit("rollout", who=name, batch_index=index)

        threads = [threading.Thread(target=emit_many, args=(name * 500,)) for name in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    lines = read_lines(path)
    assert len(lines) == 800
    for name in "abcd":
        assert [line["batch_index"] for line in lines if line["who"] == name * 500] == list(range(200))


def test_events_after_close_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    telemetry = Telemetry("r", [JsonlSink(path)])
    telemetry.emit("run_started")
    telemetry.close()
    telemetry.emit("run_finished")
    telemetry.close()

    assert [line["kind"] for line in read_lines(path)] == ["run_started"]


def test_a_sink_that_fails_to_close_does_not_keep_the_others_open(tmp_path: Path) -> None:
    class Stubborn(JsonlSink):
        def close(self) -> None:
            super().close()
            raise OSError("no")

    last = JsonlSink(tmp_path / "b.jsonl")
    telemetry = Telemetry("r", [Stubborn(tmp_path / "a.jsonl"), last])
    with pytest.raises(OSError, match="no"):
        telemetry.close()

    with pytest.raises(ValueError, match="closed file"):
        last.write(Event("rollout", 0.0, "r", "a-1", {}))


def test_an_events_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file where the folder should be")

    with pytest.raises(HomeError, match=r"cannot write .*; set GRPO_HOME") as caught:
        open_telemetry(build_config({"telemetry": {"axiom": "off", "wandb": "off"}}), home_in(tmp_path))

    assert "\n" not in str(caught.value)


def test_a_run_name_cannot_leave_the_events_folder(tmp_path: Path) -> None:
    with pytest.raises(InvalidNameError, match=r"run '\.\./x'"):
        open_telemetry(GrpoConfig(run="../x"), home_in(tmp_path))


def test_events_have_ids_of_their_own_across_processes(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    for _ in range(2):
        with Telemetry("r", [JsonlSink(path)]) as telemetry:
            for _ in range(3):
                telemetry.emit("run_started")

    assert len({line["id"] for line in read_lines(path)}) == 6


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
def test_a_full_disk_costs_events_and_says_so_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "e.jsonl"
    path.symlink_to("/dev/full")
    with Telemetry("r", [JsonlSink(path)]) as telemetry:
        for _ in range(3):
            telemetry.emit("run_started")

    assert [record.getMessage() for record in caplog.records] == [
        f"cannot write {path}: No space left on device; training goes on, and its events are lost until it can",
        f"3 events are not in {path}",
    ]


def test_what_a_full_disk_tears_spoils_no_event_after_it(tmp_path: Path) -> None:
    class Filling:
        """A raw file on a disk that takes ``left`` bytes more."""

        def __init__(self) -> None:
            self.content = b""
            self.left = 10**6

        def write(self, part: memoryview) -> int:
            if not self.left:
                raise OSError(28, "No space left on device")
            taken = bytes(part[: self.left])
            self.content += taken
            self.left -= len(taken)
            return len(taken)

        def close(self) -> None:
            pass

    sink = JsonlSink(tmp_path / "e.jsonl")
    sink._file.close()
    file = Filling()
    sink._file = file  # pyright: ignore[reportAttributeAccessIssue]
    with Telemetry("r", [sink]) as telemetry:
        telemetry.emit("run_started")
        file.left = 20
        telemetry.emit("rollout")
        telemetry.emit("rollout")
        file.left = 10**6
        telemetry.emit("run_finished")

    kinds = [json.loads(line)["kind"] for line in file.content.splitlines() if line.endswith(b"}")]
    assert kinds == ["run_started", "run_finished"]


@pytest.mark.parametrize("time_s", [0.0, 1.5, 1_795_980_000.0, 1_795_980_000.123456, 1_795_980_000.9999999, 1e-7])
def test_the_time_in_iso_utc_is_that_of_the_standard_library(time_s: float) -> None:
    expected = datetime.fromtimestamp(time_s, UTC).isoformat(timespec="microseconds")
    assert iso_utc(time_s) == expected.replace("+00:00", "Z")
