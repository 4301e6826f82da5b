"""Bisecting by comparisons with the good commit; the arms report the seconds that ``engine`` of each commit names."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from pytest_grpo.bisect.jobs import Slower
from pytest_grpo.bisect.judge import BAD, GOOD, SKIP, _decide_change
from pytest_grpo.bisect.run import main
from tests.pytest_grpo.bisect.test_run import git
from tests.pytest_grpo.conftest import NO_CONTROL

TEST = """
import engine, random
from pytest_grpo import Sample, close_values

noise = random.Random(engine.__file__)

def test_speed(grpo_arms):
    def step():
        quantities = {"tokens": 8.0, "num_passes": engine.NUM_PASSES}
        return Sample(engine.SECONDS * noise.uniform(0.99, 1.01), quantities, output=1.0)

    step, plain = grpo_arms(agree=close_values(), step=step, plain=lambda: Sample(3.0, output=1.0))
    assert step.seconds <= 1.0 * plain.seconds
"""
FAST, SLOW, MORE = ("SECONDS, NUM_PASSES = 1.0, 1", "SECONDS, NUM_PASSES = 1.1, 1", "SECONDS, NUM_PASSES = 1.0, 2")
BROKEN = "SECONDS, NUM_PASSES = missing"
METRIC = "step.tokens_per_second"


@dataclass(frozen=True, slots=True)
class Project:
    """A repository with nothing but one test file and what it measures."""

    path: Path
    commits: Sequence[str]

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "pytest_grpo.bisect.run", self.commits[0], "HEAD", *arguments]

    def bisect(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = self.command(*arguments, "--", "--grpo-pairs=10,20")
        return subprocess.run(command, cwd=self.path, capture_output=True, text=True, timeout=300, check=False)

    def state(self) -> list[str]:
        """All that bisecting must leave as it is."""
        asked = (["status", "--porcelain"], ["worktree", "list"], ["for-each-ref"])
        return [git(self.path, *arguments) for arguments in asked]


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files of new processes."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


@pytest.fixture
def make_project(tmp_path: Path, temporary: Path, few_plugins: None, monkeypatch: pytest.MonkeyPatch):
    """One commit for each text of ``engine.py``, and an uncommitted change in the working tree."""
    monkeypatch.setenv("GRPO_HOME", str(tmp_path / "home"))

    def make(*engines: str) -> Project:
        folder = tmp_path / "project"
        folder.mkdir()
        (folder / "pytest.ini").write_text(f"[pytest]\n{NO_CONTROL}\npythonpath = .\n")
        (folder / "test_speed.py").write_text(TEST)
        (folder / ".gitignore").write_text("__pycache__\n")
        git(folder, "init", "-q")
        git(folder, "config", "user.email", "a@b")
        git(folder, "config", "user.name", "a")
        commits = []
        for number, text in enumerate(engines):
            (folder / "engine.py").write_text(f"{text}  # {number}\n")
            git(folder, "add", ".")
            git(folder, "commit", "-qm", f"commit {number}")
            commits.append(git(folder, "rev-parse", "HEAD"))
        (folder / "engine.py").write_text("SECONDS, NUM_PASSES = 9.0, 9  # uncommitted\n")
        return Project(folder, commits)

    return make


@pytest.mark.slow
def test_a_slowdown_below_every_threshold_is_found_among_thirty_commits(make_project, temporary: Path) -> None:
    project: Project = make_project(*[FAST] * 19, *[SLOW] * 11)
    before = project.state()
    done = project.bisect("--slower", METRIC, "--by", "5%")
    assert done.returncode == 0, done.stderr
    first, against_good, against_parent = done.stdout.splitlines()
    assert first.startswith(f"first bad commit: {project.commits[19]} commit 19 (")
    for line, name in (
        (against_good, f"GOOD {project.commits[0][:12]}"),
        (against_parent, f"its parent {project.commits[18][:12]}"),
    ):
        assert line.startswith(f"  against {name}: {METRIC}: slower: 0.9"), line
        assert line.endswith("]"), line
    assert len(done.stderr.splitlines()) <= 8, done.stderr  # BAD, the search in 28 commits, and the parent
    assert project.state() == before
    assert list(temporary.iterdir()) == []


@pytest.mark.slow
def test_commits_that_do_not_import_are_skipped(make_project) -> None:
    project: Project = make_project(FAST, FAST, BROKEN, SLOW, SLOW)
    done = project.bisect("--slower", METRIC)
    assert done.returncode == 1, done.stderr
    head, line = done.stdout.splitlines()
    assert head.startswith("no first bad commit:")
    assert line.startswith(f"  {project.commits[2]}: nothing was compared: test_speed.py")
    assert "missing" in line


@pytest.mark.slow
def test_a_skipped_commit_elsewhere_does_not_hide_the_first_bad_one(make_project) -> None:
    project: Project = make_project(FAST, BROKEN, BROKEN, FAST, SLOW, SLOW)
    done = project.bisect("--slower", METRIC)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"first bad commit: {project.commits[4]} ")


@pytest.mark.slow
def test_a_count_that_grew_is_found_while_one_that_stayed_is_good(make_project) -> None:
    project: Project = make_project(FAST, SLOW, MORE, MORE)
    done = project.bisect("--slower", "step.num_passes")
    assert done.returncode == 0, done.stderr
    first, against_good, against_parent = done.stdout.splitlines()
    assert first.startswith(f"first bad commit: {project.commits[2]} ")
    for line in (against_good, against_parent):
        assert "step.num_passes: more: 2 here, 1 in " in line


@pytest.mark.slow
def test_ends_that_do_not_differ_or_lack_the_metric_are_one_line(make_project) -> None:
    project: Project = make_project(FAST, FAST)
    before = project.state()
    same, unknown = (project.bisect("--slower", metric) for metric in (METRIC, "step.speed"))
    assert (same.returncode, same.stdout, unknown.returncode, unknown.stdout) == (2, "", 2, "")
    good, bad = (commit[:12] for commit in project.commits)
    line = same.stderr.splitlines()[-1]
    assert line.startswith(f"grpo: error: BAD {bad} is not slower than GOOD {good} ({METRIC}: same: ")
    assert unknown.stderr.splitlines()[-1] == (
        "grpo: error: --slower step.speed: no test measures it on GOOD and BAD; measured are "
        "plain.seconds, step.tokens_per_second"
    )
    assert project.state() == before


WAITS = """
import os, pathlib, time

NUM_PASSES = 1

def wait():
    with pathlib.Path({mark!r}).open("a") as file:
        print(os.getpid(), file=file)
    time.sleep(600)
"""
WHILE_COLLECTING, WHILE_MEASURING = (
    f"{WAITS}\nwait()",
    f"{WAITS}\ndef __getattr__(name):\n    return wait() if name == 'SECONDS' else None",
)


@pytest.mark.slow
@pytest.mark.parametrize("waits", [WHILE_COLLECTING, WHILE_MEASURING])
def test_an_interruption_leaves_nothing(make_project, tmp_path: Path, temporary: Path, waits: str) -> None:
    mark = tmp_path / "hangs"
    waits = waits.format(mark=str(mark))
    project: Project = make_project(FAST, waits, waits, SLOW)
    before = project.state()
    with subprocess.Popen(
        project.command("--slower", METRIC, "--", "--grpo-pairs=10,20"), cwd=project.path, stderr=subprocess.DEVNULL
    ) as process:
        while not (mark.exists() and mark.read_text().endswith("\n")):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130
    assert project.state() == before
    assert list(temporary.iterdir()) == []
    assert not [pid for pid in mark.read_text().split() if _runs(int(pid))]


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("outcomes", "code"),
    [
        (["same"], GOOD),
        (["faster", "less"], GOOD),
        (["same", "slower"], BAD),
        (["inconclusive", "more"], BAD),
        (["same", "inconclusive"], SKIP),
        (["new here"], SKIP),
        (["gone here"], SKIP),
        (["not compared"], SKIP),
        ([], SKIP),
    ],
)
def test_a_commit_is_judged_by_the_rows_of_its_metric(outcomes: list[str], code: int) -> None:
    empty = {"low": None, "high": None, "measured": 1.0, "reason": ""}
    rows = [{"metric": "a.seconds", "outcome": outcome} | empty for outcome in outcomes]
    others = [{"metric": "b.seconds", "outcome": "slower"} | empty]
    assert _decide_change([*rows, *others], "a.seconds", "")[0] == code


def test_a_test_that_cannot_be_compared_gives_its_reason() -> None:
    rows = [{"metric": "all arms", "outcome": "not compared", "reason": "cannot be compared: it died"}]
    assert _decide_change(rows, "a.seconds", "") == (SKIP, "cannot be compared: it died")


@pytest.mark.parametrize(
    ("output", "says"),
    [
        ("x\ngrpo: error: revision 'x': not known\n", "revision 'x': not known"),
        ("x\nERROR test_a.py - NameError: no\n1 error in 1s\n", "test_a.py - NameError: no"),
        ("killed\n\n", "killed"),
        ("", "no output"),
    ],
)
def test_a_comparison_without_rows_gives_its_error(output: str, says: str) -> None:
    assert _decide_change([], "a.seconds", output) == (SKIP, f"nothing was compared: {says}")


@pytest.mark.parametrize(("text", "by"), [("5%", 0.05), ("0.05", 0.05), (" 12.5 % ", 0.125)])
def test_the_part_is_percent_or_a_fraction(text: str, by: float) -> None:
    assert Slower.parse(METRIC, text).by == pytest.approx(by)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--slower", "step", "--by", "5%"], "--slower 'step': allowed is ARM.QUANTITY"),
        (["--slower", METRIC, "--by", "5"], "--by '5': allowed are parts above 0 and below 1"),
        (["--slower", METRIC, "--by", "0%"], "--by '0%': allowed are"),
        (["--slower", METRIC, "--by", "nan"], "--by 'nan': allowed are"),
        (["--slower", METRIC, "--by", "much"], "--by 'much': allowed are"),
        (["--slower", METRIC, "--phase", "9"], "--phase '9': allowed are"),
        (["--by", "5%"], "--by 5%: belongs to --slower ARM.QUANTITY"),
    ],
)
def test_bad_input_is_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], says: str) -> None:
    assert main(["HEAD~1", "HEAD", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"grpo: error: {says}")


def test_the_help_names_both_ways(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "--slower ARM.QUANTITY" in shown
    assert "--by PART what --slower calls slower, as a part or in percent (default: 0.05)" in shown
