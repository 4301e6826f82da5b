"""Reading the questions, and what a file with a fault is told."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

import pytest

from grpo_core.config import DataConfig
from grpo_core.environments.dataset.rows import read_rows
from grpo_core.errors import ConfigError, GrpoError, MissingPackageError

ROWS = [{"prompt": "1 + 1 =", "answer": 2}, {"prompt": [{"role": "user", "content": "2 + 2?"}], "answer": 4}]


def config(path: Path | str, **values: object) -> DataConfig:
    return DataConfig.model_validate({"path": str(path), "rewards": ["a:b"], **values})


def test_jsonl_keeps_its_rows_in_order(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text("\n\n".join(map(json.dumps, ROWS)) + "\n")
    rows = read_rows(config(path))
    assert rows.columns == ("prompt", "answer")
    assert [dict(row) for row in rows.values] == ROWS


def test_a_mark_of_the_byte_order_is_no_part_of_the_first_row(tmp_path: Path) -> None:
    """Editors on Windows write one."""
    path = tmp_path / "questions.jsonl"
    path.write_text("\n".join(map(json.dumps, ROWS)), encoding="utf-8-sig")
    assert [dict(row) for row in read_rows(config(path)).values] == ROWS


def test_only_a_line_end_ends_a_row(tmp_path: Path) -> None:
    """``json.dumps`` without ``ensure_ascii`` writes U+2028 and U+0085 as they are."""
    path = tmp_path / "questions.jsonl"
    rows = [{"prompt": "one\u2028two\u0085three", "answer": 1}, {"prompt": "four", "answer": 2}]
    path.write_bytes("\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode())
    assert [dict(row) for row in read_rows(config(path)).values] == rows


CALLS = [
    [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": None, "tool_calls": [{"name": "w", "arguments": {"city": "Bern"}}]},
    ],
    [{"role": "user", "content": "q"}, {"role": "assistant", "tool_calls": [{"name": "t", "arguments": {"zone": 1}}]}],
]


def test_a_table_that_fills_messages_with_nulls_gives_what_was_written(tmp_path: Path) -> None:
    """A policy would read that the city's ``zone`` is null. ``content`` stays, as templates may ask for it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist([{"prompt": chat, "answer": None} for chat in CALLS]), tmp_path / "q.parquet")
    found = [row["prompt"] for row in read_rows(config(tmp_path / "q.parquet")).values]
    assert found == [CALLS[0], [CALLS[1][0], {**CALLS[1][1], "content": None}]]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (gzip.compress(b'{"prompt": "a"}', mtime=0), "it is compressed with gzip; unpack it"),
        (b'{"prompt": "a"}\n{"prompt": "\xff"}', ", line 2: byte 0xff is not UTF-8; save the file as UTF-8"),
        ('{"prompt": "a"}'.encode("utf-16"), "it is written in UTF-16; save it as UTF-8"),
    ],
)
def test_a_file_that_is_written_otherwise_is_told_what_it_is(content: bytes, line: str, tmp_path: Path) -> None:
    (tmp_path / "q.JSONL").write_bytes(content)
    with pytest.raises(ConfigError, match=line):
        read_rows(config(tmp_path / "q.JSONL"))


def test_a_file_has_no_splits(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text(json.dumps(ROWS[0]))
    with pytest.raises(
        ConfigError, match=r"environment.data.split 'test': .* is one file without splits; leave it out"
    ):
        read_rows(config(tmp_path / "q.jsonl", split="test"))


def test_the_digest_is_that_of_the_rows(tmp_path: Path) -> None:
    found = []
    for place, rows in enumerate((ROWS, ROWS, [*ROWS, ROWS[0]], ROWS[::-1])):
        path = tmp_path / f"{place}.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)))
        found.append(read_rows(config(path)).digest)
    assert found[0] == found[1]
    assert len(set(found)) == 3


def test_messages_name_the_setting_that_named_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^evaluation\.path .*missing\.jsonl: No such file"):
        read_rows(config(tmp_path / "missing.jsonl"), "evaluation.path")


def test_parquet_is_read_alike(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = [{"prompt": "1 + 1 =", "answer": 2}, {"prompt": "2 + 2 =", "answer": 4}]
    pq.write_table(pa.Table.from_pylist(texts), tmp_path / "questions.parquet")
    assert [dict(row) for row in read_rows(config(tmp_path / "questions.parquet")).values] == texts


FAULTS = {
    "": "no rows; give a file with at least one",
    "{": "line 1: not JSON",
    '{"prompt": "a"}\n[1]': r"line 2: \[1\] is no object",
    '{"question": "a", "answer": 1}': "no column 'prompt'; it has question, answer; name the one",
    '{"prompt": "a"}\n{"prompt": 3}': "row 2: prompt 3 is no prompt; give a text, or messages",
    '{"prompt": "a"}\n{"answer": 3}': "row 2: prompt None is no prompt",
    '{"prompt": [{"content": "a"}]}': "row 1: prompt .* is no prompt",
    '{"prompt": [{"role": "user"}]}': "row 1: prompt .* is no prompt; give a text, or messages",
    '{"prompt": [{"role": "user", "content": "a"}, {"role": 3, "content": "b"}]}': "row 1: prompt .* is no prompt",
    '{"prompt": "a"}\n{"prompt": "half \\ud800"}': r"row 2: prompt .* has a lone surrogate, which is no text; fix",
    '{"prompt": [{"role": "user", "content": ["\\udfff"]}]}': "row 1: prompt .* has a lone surrogate",
}


@pytest.mark.parametrize("content", FAULTS)
def test_a_file_with_a_fault_is_one_line_that_names_it(content: str, tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text(content)
    with pytest.raises(ConfigError, match=FAULTS[content]) as caught:
        read_rows(config(path))
    assert "\n" not in str(caught.value)


def test_what_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"missing\.jsonl: No such file or directory; give"):
        read_rows(config(tmp_path / "missing.jsonl"))
    with pytest.raises(ConfigError, match="no such file or folder"):
        read_rows(config("./questions.csv"))
    (tmp_path / "questions.csv").write_text("prompt\na\n")
    with pytest.raises(ConfigError, match=r"questions\.csv: neither a \.jsonl nor a \.parquet file; give"):
        read_rows(config(tmp_path / "questions.csv"))
    with pytest.raises(ConfigError, match=r"a folder without data files; give"):
        read_rows(config(tmp_path))  # with the package, it would be searched for whatever looks like data
    (tmp_path / "broken.parquet").unlink(missing_ok=True)
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    with pytest.raises(ConfigError, match=r"broken\.parquet: .*; give"):
        read_rows(config(tmp_path / "broken.parquet"))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(GrpoError):
        read_rows(config("someone/questions"))


def test_without_the_package_a_hub_id_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grpo_core.environments.dataset.rows.find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match="pip install datasets"):
        read_rows(config("someone/questions"))


@pytest.mark.parametrize("file", ["train.jsonl", "data/train.parquet"])
def test_a_folder_of_data_files_is_for_the_package(file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hub" / file).parent.mkdir(parents=True)
    (tmp_path / "hub" / file).write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("grpo_core.environments.dataset.rows.find_spec", lambda name: None)
    for name in ("hub", "./hub", str(tmp_path / "hub")):
        with pytest.raises(MissingPackageError, match="pip install datasets"):
            read_rows(config(name))


def test_a_system_prompt_needs_messages(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text('{"prompt": "a"}')
    with pytest.raises(ConfigError, match=r"row 1 is a text; set environment\.data\.as_chat"):
        read_rows(config(path, system_prompt="Be brief."))
    read_rows(config(path, system_prompt="Be brief.", as_chat=True))


@pytest.mark.filterwarnings("ignore")  # of the package's own
def test_a_folder_of_the_package_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes with the extra trl."""
    datasets = pytest.importorskip("datasets")
    texts = [{"prompt": "1 + 1 =", "answer": 2}, {"prompt": "2 + 2 =", "answer": 4}]
    datasets.Dataset.from_list(texts).save_to_disk(tmp_path / "one")
    parts = {"train": datasets.Dataset.from_list(texts[:1]), "test": datasets.Dataset.from_list(texts[1:])}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "two")
    assert [dict(row) for row in read_rows(config(tmp_path / "one")).values] == texts
    assert [dict(row) for row in read_rows(config(tmp_path / "two", split="test")).values] == texts[1:]
    with pytest.raises(ConfigError, match=r"environment\.data\.split 'dev': .*two has test, train; name one"):
        read_rows(config(tmp_path / "two", split="dev"))
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "train.jsonl").write_text("\n".join(map(json.dumps, texts)))
    monkeypatch.chdir(tmp_path / "plain")
    for path in (".", "./", "../plain"):
        assert [dict(row) for row in read_rows(config(path)).values] == texts
