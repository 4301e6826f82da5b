"""A history in which one commit makes a part slower, and what ``grpo bisect --slower`` finds in it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.ab_study.runs import PROJECT
from bench.ab_study.slowdowns import UNRELATED, Slowdown
from pytest_grpo.checkouts.git import git

BY = "5%"
_FIRST_BAD = "first bad commit: "
_AUTHOR = ("-c", "user.name=study", "-c", "user.email=study@example.invalid", "-c", "commit.gpgsign=false")
_NO_HOOKS = ("-c", f"core.hooksPath={os.devnull}")


@dataclass(frozen=True, slots=True)
class History:
    """A clone of this project, with commits of its own on top of ``good``."""

    folder: Path
    good: str
    slow: str
    bad: str
    """The last one."""


@dataclass(frozen=True, slots=True)
class Bisection:
    """What ``grpo bisect`` printed about a history."""

    found: str | None
    """The first bad commit."""
    lines: Sequence[str]
    """The comparisons with GOOD and with the commit's parent, or why there are none."""
    seconds: float


@contextmanager
def planted_history(slowdown: Slowdown, share: float, num_commits: int, position: int) -> Iterator[History]:
    """``num_commits`` commits that change a file of the product each. The one at ``position``, from 1, plants
    ``slowdown``, the others change nothing that the product does."""
    assert 1 <= position <= num_commits
    with tempfile.TemporaryDirectory(prefix="grpo-ab-study-") as scratch:
        folder = Path(scratch) / "clone"
        git(PROJECT, "clone", "--quiet", str(PROJECT), str(folder), problem="no clone")
        commits = [_head(folder)]
        files = sorted((folder / "grpo_core").rglob("*.py"))
        for number in range(1, num_commits + 1):
            if number == position:
                slowdown.plant(folder, share)
            else:
                path = files[number * len(files) // (num_commits + 1)]
                path.write_text(path.read_text(encoding="utf-8") + UNRELATED, encoding="utf-8")
            message = f"Change {number}"
            git(folder, *_AUTHOR, *_NO_HOOKS, "commit", "--quiet", "--all", "--message", message, problem="no commit")
            commits.append(_head(folder))
        yield History(folder, good=commits[0], slow=commits[position], bad=commits[-1])


def bisect(history: History, slowdown: Slowdown, arguments: Sequence[str]) -> Bisection:
    """Run ``grpo bisect --slower`` on the whole history; ``arguments`` go to pytest."""
    command = [sys.executable, "-m", "pytest_grpo.bisect.run", history.good, history.bad]
    judged_by = ["--slower", slowdown.metric, "--by", BY, "--phase", str(slowdown.phase)]
    start = time.perf_counter()
    done = subprocess.run(
        [*command, *judged_by, "--", "bench", "-k", slowdown.test, *arguments],
        cwd=history.folder,
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - start
    lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    found = next((line.removeprefix(_FIRST_BAD).split()[0] for line in lines if line.startswith(_FIRST_BAD)), None)
    return Bisection(found, [line for line in lines if not line.startswith(_FIRST_BAD)], seconds)


def _head(folder: Path) -> str:
    return git(folder, "rev-parse", "HEAD", problem="no commit")
