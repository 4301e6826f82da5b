from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from grpo_core.telemetry import Event
from grpo_core.telemetry.event_file import EventFile
from grpo_core.telemetry.jsonl import JsonlSink, older_file


def line(number: int) -> bytes:
    return json.dumps({"kind": "rollout", "batch_index": number}).encode() + b"\n"


def new_numbers(file: EventFile) -> list[int]:
    return [record["batch_index"] for page in file.new_pages() for record in page]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "r.jsonl"


def append(path: Path, content: bytes) -> None:
    with path.open("ab") as file:
        file.write(content)


def test_each_line_is_read_once_when_it_is_whole(path: Path) -> None:
    file = EventFile(path)
    assert new_numbers(file) == []
    append(path, line(0) + line(1) + line(2)[:10])
    assert new_numbers(file) == [0, 1]
    assert new_numbers(file) == []
    append(path, line(2)[10:])
    assert new_numbers(file) == [2]
    assert file.generation == 0


def test_damaged_lines_are_left_out_and_the_rest_is_read(path: Path) -> None:
    deep = b"[" * 100_000 + b"]" * 100_000
    append(
        path,
        b"\n".join([b'{"kind": "rollout", "batch_index": 1', line(2).strip(), b"\xff\xfe", b"[]", b"3", deep, b""]),
    )
    append(path, line(4))
    assert new_numbers(EventFile(path)) == [2, 4]


def test_lines_that_are_json_only_together_are_no_events(path: Path) -> None:
    append(path, b'{"kind": "rollout", "batch_index": [7\n8]}\n{"kind": "rollout"},{"kind": "rollout"}\n' + line(1))
    assert new_numbers(EventFile(path)) == [1]


def test_a_full_file_that_gets_another_name_is_read_to_its_end(path: Path) -> None:
    file = EventFile(path)
    append(path, line(0))
    assert new_numbers(file) == [0]
    append(path, line(1))
    os.replace(path, older_file(path))
    append(path, line(2))
    assert new_numbers(file) == [1, 2]
    assert file.generation == 0
    assert new_numbers(EventFile(path)) == [0, 1, 2]


def test_a_sink_that_begins_new_files_is_followed(path: Path) -> None:
    file = EventFile(path)
    sink = JsonlSink(path, max_bytes=2_000)
    found = []
    for number in range(50):
        sink.write(Event("rollout", 0.0, "r", f"a-{number}", {"batch_index": number}))
        found += new_numbers(file)
    sink.close()
    assert found == list(range(50))
    assert file.generation == 0


@pytest.mark.parametrize("how", ["cut", "replaced", "removed"])
def test_what_is_gone_is_a_new_generation(path: Path, how: str) -> None:
    file = EventFile(path)
    append(path, line(0) + line(1))
    assert new_numbers(file) == [0, 1]
    if how == "cut":
        path.write_bytes(line(7))
    else:
        path.rename(path.with_name("kept"))  # its inode is not used again
        if how == "replaced":
            path.write_bytes(line(7))
    assert new_numbers(file) == ([] if how == "removed" else [7])
    assert file.generation == 1


def test_a_pipe_of_that_name_is_not_waited_for(path: Path) -> None:
    os.mkfifo(path)
    assert new_numbers(EventFile(path)) == []


def test_a_file_without_line_ends_is_no_event(path: Path) -> None:
    path.write_bytes(b"x" * (9 << 20))
    assert new_numbers(EventFile(path)) == []
