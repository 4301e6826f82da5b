"""``grpo bisect GOOD BAD``: finds the first commit on which a phase fails, by ``git bisect run``.

It runs in a temporary worktree. The working tree, index, branches and any bisection of the user stay unchanged, even
after Ctrl-C.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_grpo.bisect import judge, rows
from pytest_grpo.bisect.judge import BAD, GOOD, SKIP, VERDICT_NAMES
from pytest_grpo.checkouts.git import commit_of, git, top_folder, unknown_revision
from pytest_grpo.checkouts.worktrees import import_path, open_worktree
from pytest_grpo.settings.phases import parse_phases

NOT_FOUND_EXIT_CODE = 1
USAGE_EXIT_CODE = 2
INTERRUPTED_EXIT_CODE = 130
_STOP_TIMEOUT_S = 30


def main(arguments: Sequence[str] | None = None) -> int:
    """Find the first bad commit. Exit code: 0 found, 1 not found, 2 a usage error, 130 interrupted."""
    from grpo_core.commands.parser import CommandParser

    parser = CommandParser(
        prog="grpo bisect",
        description="find the first commit on which a phase fails\n\nArguments after -- go to pytest.",
        example="grpo bisect v1.0 main --phase 3",
    )
    parser.add_argument("good", metavar="GOOD", help="a commit on which the phase passes")
    parser.add_argument("bad", metavar="BAD", help="a later commit on which it fails")
    parser.add_argument("--phase", default="all", help="phases to run, e.g. 2,5")
    given = list(sys.argv[1:] if arguments is None else arguments)
    end = given.index("--") if "--" in given else len(given)
    flags, passed_on = parser.parse_args(given[:end]), given[end + 1 :]
    try:
        parse_phases(flags.phase)
        tree = top_folder(Path.cwd())
        good, bad = (_commit(tree, revision) for revision in (flags.good, flags.bad))
        _check_ancestor(tree, flags.good, good, flags.bad, bad)
        with open_worktree(tree, bad, "grpo-bisect-") as worktree:
            return _bisect(tree, worktree, good, bad, ["--phase", flags.phase, *passed_on])
    except pytest.UsageError as error:
        print(f"grpo: error: {error}", file=sys.stderr)
        return USAGE_EXIT_CODE
    except KeyboardInterrupt:
        print("grpo: interrupted", file=sys.stderr)
        return INTERRUPTED_EXIT_CODE


def _bisect(tree: Path, worktree: Path, good: str, bad: str, arguments: list[str]) -> int:
    log = worktree.parent / "judgements.jsonl"
    judge = _prepare_judge(tree, worktree, log, arguments)
    for commit, expected in ((good, GOOD), (bad, BAD)):  # git does not check the ends itself
        git(worktree, "checkout", "--quiet", "--detach", commit, problem=f"commit {commit} cannot be checked out")
        _run(judge, worktree)
        judgement = _judgement(log, commit)
        if judgement["code"] != expected:
            found = VERDICT_NAMES[judgement["code"]]
            raise pytest.UsageError(
                f"commit {commit[:12]} must be {VERDICT_NAMES[expected]} but is '{found}' here "
                f"({judgement['reason']}); name another commit, phase or threshold"
            )
    git(worktree, "bisect", "start", bad, good, problem="git cannot bisect")
    is_found = _run(["git", "bisect", "run", *judge], worktree) == 0
    if not is_found:
        print("no first bad commit: git stopped, or only commits are left that cannot be judged:")
        skipped = [judgement for judgement in _read_log(log) if judgement["code"] not in (GOOD, BAD)]
        print(*(f"  {judgement['commit']}: {judgement['reason']}" for judgement in skipped), sep="\n")
        return NOT_FOUND_EXIT_CODE
    first = git(worktree, "rev-parse", "refs/bisect/bad", problem="git names no bad commit")
    subject = git(worktree, "log", "-1", "--format=%H %s (%as)", first, problem=f"git cannot show {first}")
    print(f"first bad commit: {subject}", *(f"  {line}" for line in _judgement(log, first)["lines"]), sep="\n")
    return 0


def _prepare_judge(tree: Path, worktree: Path, log: Path, arguments: list[str]) -> list[str]:
    """The command that judges the checkout. It has no options, which some git versions would parse as their own."""
    from grpo_core.home import Home
    from pytest_grpo.baseline.files import baselines_folder

    folder = worktree.parent
    script = folder / "judge" / "grpo_bisect_judge.py"
    script.parent.mkdir()
    shutil.copyfile(judge.__file__, script)
    plugin = shutil.copyfile(rows.__file__, script.with_name("grpo_bisect_rows.py"))
    home = folder / "home"
    baselines = baselines_folder(Home.from_environment())
    if baselines.is_dir():  # for --grpo-compare; all other files of the commits stay in the temporary folder
        shutil.copytree(baselines, home / "data" / "baselines")
    job = {
        "log": str(log),
        "folder": str(worktree / Path.cwd().resolve().relative_to(tree)),
        "plugin": plugin.stem,
        "arguments": ["-q", "--color=no", "-p", "no:cacheprovider", *arguments],
        "environment": {
            "PYTHONPATH": os.pathsep.join([*import_path(tree, worktree), str(script.parent)]),
            "PYTHONDONTWRITEBYTECODE": "1",  # a .pyc of the same second would hide the next commit's change
            "GRPO_HOME": str(home),
            "GRPO_BISECT_MAIN_TREE": str(tree),
        },
    }
    path = folder / "job.json"
    path.write_text(json.dumps(job), encoding="utf-8")
    return [sys.executable, str(script), str(path)]


def _run(command: Sequence[str], folder: Path) -> int:
    """Run ``command`` in its own process group, which is interrupted along with this process."""
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, start_new_session=True) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            os.killpg(process.pid, signal.SIGINT)
            try:
                process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
            raise


def _read_log(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []


def _judgement(log: Path, commit: str) -> dict[str, Any]:
    unfinished = {"commit": commit, "code": SKIP, "reason": "its judge did not finish", "lines": []}
    return next((judgement for judgement in reversed(_read_log(log)) if judgement["commit"] == commit), unfinished)


def _commit(tree: Path, revision: str) -> str:
    commit = commit_of(tree, revision)
    if commit is None:
        raise unknown_revision(tree, revision, "a commit, tag or branch")
    return commit


def _check_ancestor(tree: Path, good_name: str, good: str, bad_name: str, bad: str) -> None:
    problem = f"GOOD {good_name!r} is not an ancestor of BAD {bad_name!r}; name an earlier commit, then a later one"
    if good == bad:
        raise pytest.UsageError(problem)
    git(tree, "merge-base", "--is-ancestor", good, bad, problem=problem)


if __name__ == "__main__":
    sys.exit(main())
