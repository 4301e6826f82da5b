from __future__ import annotations

import math
from pathlib import Path

from pytest_grpo.logs.readers.json_lines import first_objects, numbers, read_objects, whole_number


def test_objects_are_read_in_order_and_blank_lines_are_none(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"a": 1}\n\n{"a": NaN}\n')
    objects, notes = read_objects(file)
    assert [*objects[0].items()] == [("a", 1)]
    assert math.isnan(objects[1]["a"])
    assert notes == ()


def test_a_last_line_that_is_cut_off_and_damaged_lines_are_left_out_and_said(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'{"a": 1}\n{"a": \n[1]\n{"a": 2}\n\xff\xfe\n{"a": 3')
    objects, notes = read_objects(file)
    assert objects == [{"a": 1}, {"a": 2}]
    assert notes == ("3 damaged lines left out", "the last line is cut off and left out")


def test_a_last_line_without_its_end_counts_when_it_is_whole(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n{"a": 2}')
    assert read_objects(tmp_path / "a.jsonl") == ([{"a": 1}, {"a": 2}], ())


def test_a_file_that_begins_with_something_else_has_no_first_objects(tmp_path: Path) -> None:
    file = tmp_path / "a.log"
    file.write_text('step:1 - x:2\n{"a": 1}\n')
    assert first_objects(file) == []
    file.write_text('{"a": 1}\nnoise\n{"b": 2}\n')
    assert first_objects(file) == [{"a": 1}, {"b": 2}]


def test_deep_nesting_is_a_damaged_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("[" * 100_000 + "\n")
    assert read_objects(tmp_path / "a.jsonl") == ([], ("1 damaged line left out",))


def test_numbers_are_numbers_and_null_is_none() -> None:
    found = dict(numbers({"a": 1, "b": 2.5, "c": True, "d": "3", "e": [1], "f": None}))
    assert (found["a"], found["b"]) == (1.0, 2.5)
    assert math.isnan(found["f"])
    assert found.keys() == {"a", "b", "f"}


def test_a_step_is_a_whole_number() -> None:
    assert [whole_number(value) for value in (3, 3.0, 3.5, "3", True, None, math.nan, math.inf)] == [3, 3, *[None] * 6]
