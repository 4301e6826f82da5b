"""The script that GitHub Actions runs for a comparison of a pull request with its base, with a ``gh`` of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scripts.pull_request import MARKER, MAX_COMMENT_LETTERS, comment_text, main, read_rows

PROJECT_FOLDER = Path(__file__).resolve().parent.parent
GH = """#!{python}
import json, sys
from pathlib import Path
here = Path(__file__).parent
said = sys.stdin.read() if "--input" in sys.argv else None
with open(here / "calls", "a") as file:
    file.write(json.dumps([sys.argv[1:], said]) + "\\n")
answers = json.loads((here / "answers").read_text())
print(next(answer for part, answer in answers.items() if any(part in word for word in sys.argv)))
"""
RUN = "/runs/1"


class GitHub:
    """A ``gh`` that notes what it is asked, and answers by parts of the address."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "gh").write_text(GH.format(python=sys.executable))
        (folder / "gh").chmod(0o755)

    def answers(self, **given: Any) -> None:
        (self.folder / "answers").write_text(json.dumps(given))

    @property
    def calls(self) -> list[tuple[list[str], str | None]]:
        return [json.loads(line) for line in (self.folder / "calls").read_text().splitlines()]


@pytest.fixture
def github(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GitHub:
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("GITHUB_REPOSITORY", "owner/name")
    return GitHub(tmp_path)


def a_report(folder: Path, *rows: dict[str, Any], text: str | None = None) -> Path:
    path = folder / "against.json"
    path.write_text(json.dumps({"machine": {}, "rows": rows}) if text is None else text)
    return path


def a_row(**changed: Any) -> dict[str, Any]:
    known = {"test": "bench/test_a.py::test_a", "metric": "step.seconds", "outcome": "slower", "verdict": "fail"}
    return known | {"measured": 1.2, "low": 1.1, "high": 1.3, "reason": ""} | changed


def posted(path: Path, **changed: Any) -> int:
    given = {"number": "7", "commit": "c0ffee" * 7, "kind": "full", "result": "failure"} | changed
    return main(["comment", str(path), *(f"--{name}={value}" for name, value in given.items())])


def a_comment(number: int, login: str, body: str) -> str:
    return json.dumps({"id": number, "user": {"login": login}, "body": body})


def test_the_table_is_one_comment(github: GitHub, tmp_path: Path) -> None:
    others = [
        a_comment(1, "somebody", f"{MARKER}\nmine"),
        a_comment(2, "github-actions[bot]", f"of another workflow\n{MARKER}"),
    ]
    github.answers(comments="\n".join(others))
    posted(a_report(tmp_path, a_row()))
    (listed, _), (made, body) = github.calls
    assert "repos/owner/name/issues/7/comments?per_page=100" in listed
    assert made[:4] == ["api", "--method", "POST", "repos/owner/name/issues/7/comments"]
    assert json.loads(body or "")["body"].startswith(MARKER)


def test_a_later_run_updates_its_own_comment(github: GitHub, tmp_path: Path) -> None:
    comments = [a_comment(1, "somebody", f"{MARKER}\nmine"), a_comment(3, "github-actions[bot]", f"{MARKER}\nold")]
    github.answers(comments="\n".join(comments))
    posted(a_report(tmp_path, a_row()))
    (changed, body) = github.calls[-1]
    assert changed[:4] == ["api", "--method", "PATCH", "repos/owner/name/issues/comments/3"]
    assert "1 slower." in json.loads(body or "")["body"]


def test_without_a_number_the_text_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = a_report(tmp_path, a_row(), a_row(outcome="", verdict="pass", metric="gate_of_one_version"))
    assert main(["comment", str(path), "--commit", "c0ffee", "--kind", "screen", "--result", "failure"]) == 0
    text = capsys.readouterr().out
    assert "| 1.2 | 1.1 to 1.3 | \u274c slower |" in text
    assert "<code>c0ffee</code>: [failure](" in text
    assert "gate_of_one_version" not in text


def test_text_of_the_file_is_shown_as_code(tmp_path: Path) -> None:
    evil = "</code> @everybody | [a](https://b.c) <!-- `"
    text = comment_text(a_report(tmp_path, a_row(test=evil, metric=evil, reason=evil)), evil, "full", "success", RUN)
    assert not any(part in text for part in ("@", "[a]", "https:", "b.c"))
    assert text.count("`") == 2  # around our own /grpo against
    assert text.count("<!--") == 1


def test_a_long_table_is_cut(tmp_path: Path) -> None:
    rows = [a_row(test=f"{number}{'.' * 500}", metric="." * 500, reason="." * 500) for number in range(500)]
    text = comment_text(a_report(tmp_path, *rows), "c0ffee", "full", "failure", RUN)
    assert 0.2 * MAX_COMMENT_LETTERS < len(text) <= MAX_COMMENT_LETTERS
    assert "500 slower." in text
    assert "rows more are not shown." in text


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"outcome": "great"}, "'great' is not a valid Outcome"),
        ({"verdict": None}, "verdict is no text"),
        ({"measured": "1"}, "measured is no number"),
        ({"low": True}, "low is no number"),
        ({"high": 10**400}, "high is no number"),
        ({"measured": float("inf")}, "Infinity is no number"),
        ({"reason": ["a"]}, "reason is no text"),
    ],
)
def test_a_row_of_another_kind_is_refused(tmp_path: Path, changed: dict[str, Any], why: str) -> None:
    path = a_report(tmp_path, a_row(**changed))
    with pytest.raises(ValueError, match=why):
        read_rows(path)
    text = comment_text(path, "c0ffee", "full", "failure", RUN)
    assert "There is no table (<code>" in text
    assert "| slower" not in text


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[" * 100_000, "nested too deep"),
        ("{}", "no list of rows"),
        ('{"rows": [1]}', "no list of rows"),
        ("", "Expec"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        read_rows(a_report(tmp_path, text=text))


def test_without_a_file_the_comment_says_so(tmp_path: Path) -> None:
    text = comment_text(tmp_path / "none.json", "c0ffee", "screen", "failure", RUN)
    assert "There is no table (<code>No such file or directory</code>); the run's log says why." in text


def a_pull_request(pushed_at: str | None) -> str:
    source = None if pushed_at is None else {"pushed_at": pushed_at, "full_name": "fork/name"}
    return json.dumps({"head": {"sha": "c0ffee", "repo": source}, "base": {"ref": "main"}})


def test_a_comment_asks_for_the_commit_that_was_there(github: GitHub, capsys: pytest.CaptureFixture[str]) -> None:
    github.answers(pulls=a_pull_request("2026-01-02T03:04:05Z"))
    assert main(["head", "--number", "7", "--asked-at", "2026-01-02T03:04:06Z"]) == 0
    assert capsys.readouterr().out == "head=c0ffee\nbase=main\n"
    assert github.calls == [[["api", "repos/owner/name/pulls/7"], None]]


@pytest.mark.parametrize(("pushed_at", "why"), [("2026-01-02T03:04:07Z", "a push after the comment"), (None, "gone")])
def test_code_that_nobody_has_seen_is_not_run(
    github: GitHub, capsys: pytest.CaptureFixture[str], pushed_at: str | None, why: str
) -> None:
    github.answers(pulls=a_pull_request(pushed_at))
    with pytest.raises(SystemExit, match=why):
        main(["head", "--number", "7", "--asked-at", "2026-01-02T03:04:06Z"])
    assert capsys.readouterr().out == ""


def test_it_needs_the_standard_library_only() -> None:
    """A job that may write comments installs nothing."""
    done = subprocess.run(
        [sys.executable, "-S", "-m", "scripts.pull_request", "comment", "--help"],
        cwd=PROJECT_FOLDER,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
