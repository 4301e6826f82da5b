from __future__ import annotations

from pathlib import Path

import pytest

from pytest_grpo.logs.readers.formats import FORMATS, READERS, read_run
from tests.pytest_grpo.logs.readers.samples import SAMPLES


@pytest.mark.parametrize("file", sorted(path.name for path in SAMPLES.iterdir() if path.suffix != ".md"))
def test_only_the_reader_of_a_format_recognises_it(file: str) -> None:
    """The name of a sample begins with its format's."""
    (found,) = [reader for reader in READERS if reader.recognises(SAMPLES / file)]
    assert file.startswith(("-".join(found.name.split("-")[:-1]) or found.name, found.name))
    assert read_run(SAMPLES / file, file).format == found.title


def test_a_format_can_be_said(tmp_path: Path) -> None:
    assert read_run(SAMPLES / "verl-file.jsonl", "run", "verl-file").steps
    with pytest.raises(pytest.UsageError, match=r"^run: no training step in it, read as verl's console; name another"):
        read_run(SAMPLES / "verl-file.jsonl", "run", "verl-console")


@pytest.mark.parametrize("format", [None, *FORMATS])
def test_no_content_is_a_traceback(tmp_path: Path, format: str | None) -> None:
    file = tmp_path / "x"
    for content in (b"\x00\xff" * 500, b"hello\n", b"{", b"[]", b"{}\n{}\n", b":W&B\xe1\xbe\x00", b"null\n", b"\n"):
        file.write_bytes(content)
        with pytest.raises(pytest.UsageError):
            read_run(file, "run", format)


def test_an_empty_file_and_an_unknown_one_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with pytest.raises(pytest.UsageError, match=r"^run: the file is empty; name the log of a run that took steps$"):
        read_run(tmp_path / "empty", "run")
    (tmp_path / "other").write_text("hello\n")
    with pytest.raises(pytest.UsageError, match=r"^run: of no known format; known are .*; say which with --format$"):
        read_run(tmp_path / "other", "run")


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(pytest.UsageError, match=r"^run: cannot be read: No such file or directory; name the log of a"):
        read_run(tmp_path / "gone", "run")
    with pytest.raises(pytest.UsageError, match=r"^run: cannot be read: Is a directory; name the log of a run$"):
        read_run(tmp_path, "run", "events")
