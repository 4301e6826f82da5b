"""What .github/workflows/against.yml needs of a pull request, with the standard library and ``gh`` only.

``head``: which commit a comment asks for. ``comment``: post what two versions differ in as one comment, which later
runs update. The pull request's own code wrote the file with the rows: nothing in it is believed but numbers, the names
of outcomes, and text that is shown as code.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from pytest_grpo.reports.versions.markdown import Compared, code, versions_markdown
from pytest_grpo.types import Outcome, Verdict

MARKER = "<!-- grpo-against -->"
"""The first line of the comment."""
AUTHOR = "github-actions[bot]"
MAX_COMMENT_LETTERS = 60_000
"""GitHub takes 65536."""
MAX_FILE_BYTES = 50_000_000
MAX_ROWS = 200
MAX_NUMBER = 1e300
KINDS = {
    "screen": "A quick look with few pairs: small changes stay inconclusive. "
    "The comment `/grpo against` of a maintainer starts the whole comparison.",
    "full": "The whole comparison, which `/grpo against` asked for.",
}


def read_rows(path: Path) -> list[Compared]:
    """The rows of a ``--grpo-json`` file that compare two versions.

    Raises:
        ValueError: one line that says what is wrong with the file.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ValueError(f"larger than {MAX_FILE_BYTES} bytes")
        report = json.loads(path.read_bytes(), parse_constant=_no_number)
    except OSError as error:
        raise ValueError(error.strerror) from None
    except RecursionError:
        raise ValueError("nested too deep") from None
    rows = report.get("rows") if isinstance(report, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("no list of rows")
    return [_compared(row) for row in rows if row.get("outcome")]


def comment_text(path: Path, commit: str, kind: str, result: str, run_url: str) -> str:
    """The comment: a table, or why there is none. ``result`` is how the job ended, such as ``failure``."""
    head = [MARKER, "### This pull request over its base", ""]
    head += [f"{code(commit[:12])}: [{result}]({run_url}). {KINDS[kind]}", ""]
    try:
        rows = read_rows(path)
    except ValueError as error:
        return "\n".join([*head, f"There is no table ({code(str(error))}); the run's log says why.", ""])
    max_rows = min(MAX_ROWS, len(rows))
    while True:
        text = "\n".join([*head, versions_markdown(rows, max_rows=max_rows)])
        if len(text) <= MAX_COMMENT_LETTERS:
            return text
        max_rows //= 2


def post(text: str, repository: str, number: int) -> None:
    """Update the comment that an earlier run made, or make one."""
    listed = _gh("--paginate", f"repos/{repository}/issues/{number}/comments?per_page=100", "--jq", ".[]")
    comments = [json.loads(line) for line in listed.splitlines()]
    own = [
        comment["id"]
        for comment in comments
        if comment["user"]["login"] == AUTHOR and comment["body"].startswith(MARKER)
    ]
    body = json.dumps({"body": text})
    if own:
        _gh("--method", "PATCH", f"repos/{repository}/issues/comments/{own[0]}", "--input", "-", said=body)
    else:
        _gh("--method", "POST", f"repos/{repository}/issues/{number}/comments", "--input", "-", said=body)


def head_of(repository: str, number: int, asked_at: str) -> Mapping[str, str]:
    """The commit and the base branch of a pull request at ``asked_at``, UTC, ISO 8601.

    Ends the program when somebody has pushed since: who asked has not seen that code.
    """
    found = json.loads(_gh(f"repos/{repository}/pulls/{number}"))
    source = found["head"]["repo"]
    if source is None:
        raise SystemExit(f"pull request {number}: its repository is gone; there is nothing to compare")
    if source["pushed_at"] > asked_at:
        raise SystemExit(f"pull request {number}: {source['full_name']} got a push after the comment; comment again")
    return {"head": found["head"]["sha"], "base": found["base"]["ref"]}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parsers = parser.add_subparsers(dest="command", required=True)
    head = parsers.add_parser("head", help="print head=COMMIT and base=BRANCH")
    head.add_argument("--number", type=int, required=True, help="of the pull request")
    head.add_argument("--asked-at", required=True, help="when the comment was made")
    comment = parsers.add_parser("comment", help="post the table")
    comment.add_argument("file", type=Path, help="what --grpo-json has written")
    comment.add_argument("--number", type=int, help="of the pull request; without it the text is printed")
    comment.add_argument("--commit", required=True, help="that was measured")
    comment.add_argument("--kind", choices=tuple(KINDS), required=True)
    comment.add_argument("--result", required=True, help="how the job that measured ended")
    given = parser.parse_args(arguments)
    repository = os.environ.get("GITHUB_REPOSITORY", "")
    if given.command == "head":
        for name, value in head_of(repository, given.number, given.asked_at).items():
            print(f"{name}={value}")
        return 0
    server, run = os.environ.get("GITHUB_SERVER_URL", ""), os.environ.get("GITHUB_RUN_ID", "")
    text = comment_text(given.file, given.commit, given.kind, given.result, f"{server}/{repository}/actions/runs/{run}")
    if given.number is None:
        print(text)
    else:
        post(text, repository, given.number)
    return 0


def _compared(row: Mapping[str, Any]) -> Compared:
    return Compared(
        test=_text(row, "test"),
        metric=_text(row, "metric"),
        outcome=Outcome(_text(row, "outcome")),
        verdict=Verdict(_text(row, "verdict")),
        ratio=float("nan") if (ratio := _number(row, "measured")) is None else ratio,
        low=_number(row, "low"),
        high=_number(row, "high"),
        reason=_text(row, "reason"),
    )


def _text(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str):
        raise ValueError(f"{name} is no text")
    return value


def _number(row: Mapping[str, Any], name: str) -> float | None:
    value = row.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not -MAX_NUMBER < value < MAX_NUMBER:
        raise ValueError(f"{name} is no number")
    return float(value)


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")


def _gh(*arguments: str, said: str | None = None) -> str:
    """What ``gh api`` answers. Ends the program when it fails; its message is on stderr."""
    done = subprocess.run(["gh", "api", *arguments], input=said, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"gh api {' '.join(arguments)}: exit code {done.returncode}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
