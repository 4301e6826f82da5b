"""Bisecting a real repository: each commit of it says in ``engine.SPEED`` what its gate will measure."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from pytest_grpo.bisect import judge
from pytest_grpo.bisect.judge import BAD, GOOD, SKIP, _decide
from pytest_grpo.bisect.run import main

CONFTEST = """
import pytest
from pytest_grpo.types import Row

def row(speed):
    verdict = "pass" if speed >= 2 else "inconclusive" if speed >= 1.5 else "fail"
    return Row(metric="speedup", phase=2, kind="at_least", bound_low=2.0, bound_high=None, threshold=">= 2",
               source="file", unit="", verdict=verdict, reason="", measured=speed, device="cpu")

@pytest.fixture
def measured(request):
    def record(speed):
        request.config.hook.pytest_grpo_verdict(config=request.config, row=row(speed))
        assert speed >= 1.5
    return record
"""
TEST = """
import pytest

@pytest.mark.phase2
def test_speed(measured):
    import engine
    measured(engine.SPEED)

def test_of_no_phase():
    raise AssertionError
"""
FILES = {"conftest.py": CONFTEST, "test_engine.py": TEST, "bench/thresholds.toml": "[cpu.phase2]\n[gpu.phase2]\n"}


@dataclass(frozen=True, slots=True)
class Repository:
    """A source tree whose ``src`` is on the path of whoever bisects, as an editable install has it."""

    path: Path
    commits: tuple[str, ...]

    def bisect(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "pytest_grpo.bisect.run", *arguments],
            cwd=self.path,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    @property
    def environment(self) -> Mapping[str, str]:
        return os.environ | {"PYTHONPATH": str(self.path / "src"), "GRPO_HOME": str(self.path / "home")}

    def state(self) -> list[str]:
        """All that bisecting must leave as it is."""
        return [
            git(self.path, *arguments)
            for arguments in (["status", "--porcelain"], ["worktree", "list"], ["branch", "-a", "-v"], ["for-each-ref"])
        ] + [(self.path / "src" / "engine.py").read_text()]


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def make_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few_plugins: None):
    """One commit for each of ``speeds``, and an uncommitted change in the working tree."""
    monkeypatch.setenv("PYTEST_PLUGINS", "pytest_grpo.plugin")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()

    def make(*speeds: str) -> Repository:
        folder = tmp_path / "repository"
        for name, text in FILES.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        (folder / "src").mkdir()
        git(folder, "init", "-q")
        git(folder, "config", "user.email", "a@b")
        git(folder, "config", "user.name", "a")
        commits = []
        for number, speed in enumerate(speeds):
            # Equal sizes within one second: bytecode of the commit before would pass for this one's.
            (folder / "src" / "engine.py").write_text(f"SPEED = {speed}\n")
            (folder / "number.txt").write_text(str(number))
            git(folder, "add", ".")
            git(folder, "commit", "-qm", f"commit {number}: {speed}")
            commits.append(git(folder, "rev-parse", "HEAD"))
        (folder / "src" / "engine.py").write_text("SPEED = 9.0  # uncommitted\n")
        return Repository(folder, tuple(commits))

    return make


def test_it_finds_the_first_bad_commit_and_leaves_no_trace(make_repository, tmp_path: Path) -> None:
    repository: Repository = make_repository("3.0", "2.9", "3.1", "1.2", "1.1", "1.3")
    before = repository.state()
    done = repository.bisect(repository.commits[0], "HEAD", "--phase", "2", "--", "-k", "speed")
    assert done.returncode == 0, done.stderr
    first, line = done.stdout.splitlines()
    assert first.startswith(f"first bad commit: {repository.commits[3]} commit 3: 1.2 (")
    assert line == "  speedup: fail: 1.2, threshold >= 2"
    judged = [text for text in done.stderr.splitlines() if text.startswith(("good:", "bad:"))]
    assert [text.partition(" commit ")[2] for text in judged[:2]] == ["0: 3.0: pass: speedup", "5: 1.3: fail: speedup"]
    assert "bad: " in next(text for text in judged if "commit 3: 1.2: fail" in text)
    assert len(judged) < 6  # or else it did not bisect
    assert repository.state() == before
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.slow
def test_a_commit_that_cannot_be_judged_is_blamed_of_nothing(make_repository) -> None:
    repository: Repository = make_repository("3.0", "1.7", "1.2")
    done = repository.bisect(repository.commits[0], "HEAD")
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith("no first bad commit:")
    assert done.stdout.endswith(f"  {repository.commits[1]}: inconclusive: speedup\n")


@pytest.mark.parametrize(
    ("verdicts", "exit_code", "code"),
    [
        (["pass", "pass"], 0, GOOD),
        (["pass", "fail", "inconclusive"], 1, BAD),
        (["pass", "inconclusive"], 0, SKIP),
        (["pass"], 1, SKIP),  # another test failed
        (["fail"], 2, SKIP),  # interrupted
        (["pass"], 3, SKIP),
        (["fail"], 3, SKIP),
        (["pass", "fail"], 4, BAD),  # beside a mistake
        (["pass"], 4, SKIP),
        ([], 4, SKIP),
        ([], 0, SKIP),
        ([], 5, SKIP),
    ],
)
def test_a_commit_is_judged_by_its_rows(verdicts: list[str], exit_code: int, code: int) -> None:
    rows = [{"metric": f"m{number}", "verdict": verdict} for number, verdict in enumerate(verdicts)]
    assert _decide(rows, exit_code, "ERROR: no\n")[0] == code


def test_a_judge_that_crashes_skips_the_commit(tmp_path: Path) -> None:
    script, job = shutil.copyfile(judge.__file__, tmp_path / "judge.py"), tmp_path / "job.json"
    job.write_text("{}")
    done = subprocess.run([sys.executable, script, job], capture_output=True, text=True, check=False)
    assert done.returncode == SKIP
    assert "KeyError: 'tree'" in done.stderr


def test_ends_that_are_not_what_they_are_called_are_refused(make_repository) -> None:
    repository: Repository = make_repository("1.0", "1.1")
    before = repository.state()
    done = repository.bisect("HEAD~1", "HEAD")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1] == (
        f"grpo: error: commit {repository.commits[0][:12]} must be good but is 'bad' here (fail: speedup); "
        "name another commit, phase or threshold"
    )
    assert repository.state() == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["HEAD", "HEAD~1"],
            "GOOD 'HEAD' is not an ancestor of BAD 'HEAD~1'; name an earlier commit, then a",
        ),
        (["HEAD", "HEAD"], "GOOD 'HEAD' is not an ancestor of BAD 'HEAD'"),
        (["missing", "HEAD"], "revision 'missing': not known in"),
        (["HEAD~1", "HEAD", "--phase", "9"], "--phase '9': allowed are"),
    ],
)
def test_bad_input_is_one_line(
    make_repository,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    says: str,
) -> None:
    repository: Repository = make_repository("3.0", "1.0")
    monkeypatch.chdir(repository.path)
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"grpo: error: {says}")


def test_a_folder_without_a_repository_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["a", "b"]) == 2
    assert capsys.readouterr().err.startswith(f"grpo: error: {tmp_path}: not in a git repository")


@pytest.mark.slow
def test_what_is_imported_from_the_working_tree_is_not_judged(make_repository) -> None:
    repository: Repository = make_repository("3.0", "1.0")
    (repository.path / "stray.py").write_text("")
    stray = f"import sys; sys.path.append({str(repository.path)!r}); import stray\n"
    (repository.path / "conftest.py").write_text(stray + CONFTEST)
    git(repository.path, "commit", "-qm", "imports what is in no commit", "conftest.py")
    git(repository.path, "commit", "-qm", "another", "src")
    done = repository.bisect("HEAD~1", "HEAD")
    assert (
        f"'cannot be judged' here (pytest exit code 3: {repository.path}/stray.py was imported from the working tree"
        in done.stderr
    )


@pytest.mark.slow
def test_an_interruption_removes_the_worktree(make_repository, tmp_path: Path) -> None:
    mark = tmp_path / "hangs"
    hangs = f"(__import__('pathlib').Path({str(mark)!r}).touch(), __import__('time').sleep(600))"
    repository: Repository = make_repository("3.0", hangs, "1.0")
    before = repository.state()
    with subprocess.Popen(
        [sys.executable, "-m", "pytest_grpo.bisect.run", "HEAD~2", "HEAD"],
        cwd=repository.path,
        env=repository.environment,
        stderr=subprocess.DEVNULL,
    ) as process:
        while not mark.exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130
    assert repository.state() == before
    assert list((tmp_path / "temporary").iterdir()) == []
