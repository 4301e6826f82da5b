"""``grpo bisect GOOD BAD``: finds the first commit on which a phase fails, by ``git bisect run``.

With ``--slower`` it finds the first commit on which a quantity is slower than on GOOD, compared in pairs.

It runs in a temporary worktree. The working tree, index, branches and any bisection of the user stay unchanged, even
after Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pytest_grpo.bisect.jobs import DEFAULT_BY, Judge, Slower
from pytest_grpo.bisect.judge import BAD, GOOD, VERDICT_NAMES
from pytest_grpo.checkouts.git import commit_of, git, top_folder, unknown_revision
from pytest_grpo.checkouts.worktrees import open_worktree
from pytest_grpo.programs import program
from pytest_grpo.settings.phases import parse_phases

NOT_FOUND_EXIT_CODE = 1
_STOP_TIMEOUT_S = 30


@program
def main(arguments: Sequence[str] | None = None) -> int:
    """Find the first bad commit. Exit code: 0 found, 1 not found, 2 a usage error, 130 interrupted."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    end = given.index("--") if "--" in given else len(given)
    flags, passed_on = _parser().parse_args(given[:end]), given[end + 1 :]
    slower = _slower(flags)
    if flags.phase is not None:
        parse_phases(flags.phase)
    tree = top_folder(Path.cwd())
    good, bad = (_commit(tree, revision) for revision in (flags.good, flags.bad))
    _check_ancestor(tree, flags.good, good, flags.bad, bad)
    with open_worktree(tree, bad, "grpo-bisect-") as worktree:
        if slower is not None:
            return _bisect_change(Judge.by_change(worktree, slower, flags.phase, passed_on), slower, good, bad)
        judge = Judge.by_verdicts(tree, worktree, ["--phase", flags.phase or "all", *passed_on])
        return _bisect_verdicts(judge, good, bad)


def _parser() -> argparse.ArgumentParser:
    from grpo_core.commands.command_line.parser import CommandParser

    parser = CommandParser(
        prog="grpo bisect",
        description="find the first commit on which a phase fails or a quantity is slower\n\n"
        "Arguments after -- go to pytest.",
        example="grpo bisect v1.0 main --slower step.tokens_per_second --by 5%",
    )
    parser.add_argument("good", metavar="GOOD", help="a commit on which the phase passes, or the quantity is fast")
    parser.add_argument("bad", metavar="BAD", help="a later commit on which it fails, or is slow")
    parser.add_argument(
        "--phase",
        metavar="PHASES",
        help="phases to run, e.g. 2,5 (default: all; with --slower every test with a gate)",
    )
    parser.add_argument(
        "--slower",
        metavar="ARM.QUANTITY",
        help="judge each commit by its comparison with GOOD: bad where this is slower, or a count or bytes more",
    )
    parser.add_argument(
        "--by", metavar="PART", help=f"what --slower calls slower, as a part or in percent (default: {DEFAULT_BY})"
    )
    return parser


def _slower(flags: argparse.Namespace) -> Slower | None:
    if flags.slower is not None:
        return Slower.parse(flags.slower, DEFAULT_BY if flags.by is None else flags.by)
    if flags.by is not None:
        raise pytest.UsageError(f"--by {flags.by}: belongs to --slower ARM.QUANTITY, which is missing")
    return None


def _bisect_verdicts(judge: Judge, good: str, bad: str) -> int:
    command = judge.command()
    for commit, expected in ((good, GOOD), (bad, BAD)):  # git does not check the ends itself
        judgement = _judge(judge, command, commit)
        if judgement["code"] != expected:
            found = VERDICT_NAMES[judgement["code"]]
            raise pytest.UsageError(
                f"commit {commit[:12]} must be {VERDICT_NAMES[expected]} but is '{found}' here "
                f"({judgement['reason']}); name another commit, phase or threshold"
            )
    first = _first_bad(judge, command, good, bad)
    if first is None:
        return NOT_FOUND_EXIT_CODE
    print(*(f"  {line}" for line in judge.judgement(first)["lines"]), sep="\n")
    return 0


def _bisect_change(judge: Judge, slower: Slower, good: str, bad: str) -> int:
    command = judge.command(good)
    judgement = _judge(judge, command, bad)
    if judgement["measured"] and slower.metric not in judgement["measured"] and not judgement["lines"]:
        measured = ", ".join(judgement["measured"])
        raise pytest.UsageError(
            f"--slower {slower.metric}: no test measures it on GOOD and BAD; measured are {measured}"
        )
    if judgement["code"] != BAD:
        found = "is not slower than" if judgement["code"] == GOOD else "cannot be compared with"
        raise pytest.UsageError(
            f"BAD {bad[:12]} {found} GOOD {good[:12]} ({judgement['reason']}); name another commit, phase or --by"
        )
    first = _first_bad(judge, command, good, bad)
    if first is None:
        return NOT_FOUND_EXIT_CODE
    parent = git(judge.worktree, "rev-parse", f"{first}^", problem=f"commit {first} has no parent")
    lines = [f"  against GOOD {good[:12]}: {line}" for line in judge.judgement(first)["lines"]]
    print(*lines, sep="\n", flush=True)
    compared = _judge(judge, judge.command(parent), first)
    print(
        *(f"  against its parent {parent[:12]}: {line}" for line in compared["lines"] or [compared["reason"]]), sep="\n"
    )
    return 0


def _judge(judge: Judge, command: Sequence[str], commit: str) -> dict[str, Any]:
    problem = f"commit {commit} cannot be checked out"
    git(judge.worktree, "checkout", "--quiet", "--detach", commit, problem=problem)
    _run(command, judge.worktree)
    return judge.judgement(commit)


def _first_bad(judge: Judge, command: Sequence[str], good: str, bad: str) -> str | None:
    """The first bad commit; None, with the reasons shown, when it cannot be told."""
    worktree = judge.worktree
    git(worktree, "bisect", "start", bad, good, problem="git cannot bisect")
    if _run(["git", "bisect", "run", *command], worktree) != 0:
        print("no first bad commit: git stopped, or only commits are left that cannot be judged:")
        skipped = [found for found in judge.judgements() if found["code"] not in (GOOD, BAD)]
        print(*(f"  {found['commit']}: {found['reason']}" for found in skipped), sep="\n")
        return None
    first = git(worktree, "rev-parse", "refs/bisect/bad", problem="git names no bad commit")
    subject = git(worktree, "log", "-1", "--format=%H %s (%as)", first, problem=f"git cannot show {first}")
    print(f"first bad commit: {subject}", flush=True)
    return first


def _run(command: Sequence[str], folder: Path) -> int:
    """Run ``command`` in its own process group, which is interrupted along with this process.

    It has ended when all processes that hold its output have: a judge, which cleans up, outlives an interrupted git.
    """
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, start_new_session=True) as process:
        try:
            process.communicate()
        except KeyboardInterrupt:
            with suppress(ProcessLookupError):  # all have ended
                os.killpg(process.pid, signal.SIGINT)
                try:
                    process.communicate(timeout=_STOP_TIMEOUT_S)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
            raise
        return process.returncode


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
