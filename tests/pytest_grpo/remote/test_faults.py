"""What goes wrong where a phase runs: it ends in time, with the right report, nothing left running and nothing lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.usefixtures("few_plugins")
REMOTE = ("--phase", "2", "--grpo-remote=subprocess")

KILLS_ITS_PLACE = """
import os, pathlib, signal, time, pytest
pytestmark = pytest.mark.phase2
pids = pathlib.Path("pids.txt")

def test_before(): pass

def test_lost():
    with pids.open("a") as file:
        file.write(f"{{os.getpid()}} {{os.getppid()}}\\n")
    if len(pids.read_text().splitlines()) <= {times}:
        time.sleep(0.5)  # what came before has arrived
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)

def test_after(): pass
"""


def pids_in(file: Path) -> list[int]:
    return [int(pid) for pid in file.read_text().split()]


def are_gone(pids: list[int], timeout_s: float = 5) -> bool:
    deadline = time.monotonic() + timeout_s
    while any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 2])
def test_a_lost_place_is_replaced_and_nothing_is_lost(project: pytest.Pytester, times: int) -> None:
    project.makepyfile(test_suite=KILLS_ITS_PLACE.format(times=times))
    result = project.runpytest(*REMOTE, "-v")
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines([f"grpo: phase 2: lost: its process * was lost (signal SIGKILL); *({times} of 2)"])
    assert len([line for line in result.outlines if "test_before PASSED" in line]) == 1
    assert are_gone(pids_in(project.path / "pids.txt"))


@pytest.mark.slow
def test_a_place_that_is_lost_for_good_makes_errors(project: pytest.Pytester) -> None:
    project.makepyfile(test_suite=KILLS_ITS_PLACE.format(times=99))
    result = project.runpytest(*REMOTE, "--modal-retries=1", "--junitxml=junit.xml")
    result.assert_outcomes(passed=1, errors=2)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*test_lost has no result from where it ran: its process * was lost (*) (2 times)"])
    suite = next(ElementTree.parse(project.path / "junit.xml").iter("testsuite"))
    assert (suite.get("errors"), suite.get("failures")) == ("2", "0")
    assert are_gone(pids_in(project.path / "pids.txt"))


@pytest.mark.slow
def test_what_a_test_prints_and_reports_arrives_whole(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_suite="""
        import pytest
        @pytest.mark.phase2
        def test_large(record_property):
            print("x\\\\" * (5 << 20))
            record_property("large", "\\u00e4" * 3_000_000)
            raise AssertionError("y" * (1 << 20))
        """
    )
    run = project.inline_run(*REMOTE, "-qq", "--tb=no", "--show-capture=no")
    call = next(report for report in run.getreports("pytest_runtest_logreport") if report.when == "call")
    assert len(call.capstdout) == (10 << 20) + 1
    assert set(call.capstdout) == {"x", "\\", "\n"}
    large = str(dict(call.user_properties)["large"])
    assert (len(large), set(large)) == (3_000_000, {"\u00e4"})
    assert call.longreprtext.count("y") >= 1 << 20


@pytest.mark.slow
def test_an_internal_error_there_is_an_error_that_shows_it(project: pytest.Pytester) -> None:
    project.makeconftest(
        """
        def pytest_runtest_logfinish(nodeid):
            import sys
            if any("report-file" in word for word in sys.argv) and "second" in nodeid:
                raise RuntimeError("broken hook")
        """
    )
    project.makepyfile(
        test_suite="import pytest\npytestmark = pytest.mark.phase2\n"
        "def test_first(): pass\ndef test_second(): pass\ndef test_third(): pass"
    )
    result = project.runpytest(*REMOTE)
    result.assert_outcomes(passed=1, errors=2)
    result.stdout.fnmatch_lines(["*pytest ended there with exit code 3*", "INTERNALERROR> RuntimeError: broken hook"])


def test_other_code_there_stops_the_session(project: pytest.Pytester) -> None:
    project.makeconftest("import os, pathlib\npathlib.Path('other.py').write_text(f'PID = {os.getpid()}')")
    result = project.runpytest(*REMOTE)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: phase 2: the code there differs: other.py; save your files and *"])


@pytest.mark.parametrize(
    ("suite", "says"),
    [
        (
            "@pytest.mark.parametrize('pid', [os.getpid()])\ndef test_two(pid): pass",
            "not collected there: test_suite.py::test_two?*?; make collection depend on the code alone",
        ),
        (
            "def test_two(): pass\nif any('report-file' in word for word in sys.argv):\n    def test_new(): pass",
            "collected only there: test_suite.py::test_new; make collection depend on the code alone",
        ),
        (
            "def test_two(): pass\nassert not any('report-file' in word for word in sys.argv), 'broken import'",
            "not collected there: test_suite.py::test_two (*broken import*); make *",
        ),
    ],
)
def test_another_collection_there_stops_the_session(project: pytest.Pytester, suite: str, says: str) -> None:
    project.makepyfile(test_suite=f"import os, sys, pytest\npytestmark = pytest.mark.phase2\n{suite}")
    result = project.runpytest(*REMOTE)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: phase 2: {says}"])


@pytest.mark.slow
def test_a_usage_error_there_is_one_line(project: pytest.Pytester) -> None:
    project.makeini("[pytest]\n")
    project.makeconftest(
        """
        import sys, pytest
        def pytest_configure(config):
            if any("report-file" in word for word in sys.argv):
                raise pytest.UsageError("not on this machine")
        """
    )
    result = project.runpytest(*REMOTE)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: phase 2: not on this machine"])


@pytest.mark.slow
def test_two_sessions_that_save_one_name_keep_the_first(project: pytest.Pytester) -> None:
    command = [sys.executable, "-m", "pytest", *REMOTE, "--grpo-save=same"]
    sessions = [
        subprocess.Popen(command, cwd=project.path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(2)
    ]
    outputs = [session.communicate(timeout=60)[0] for session in sessions]
    assert sum("grpo: stored as same" in output for output in outputs) == 1, outputs
    assert sum("exists and is never overwritten" in output for output in outputs) == 1, outputs


SLEEPS = """
import os, pathlib, pytest, time
pytestmark = pytest.mark.phase2
pathlib.Path('pids.txt').write_text(f'{os.getpid()} {os.getppid()}')
def test_replayed(): pass
def test_running(): time.sleep(60)
"""


def start_until(project: pytest.Pytester, said: str) -> subprocess.Popen[str]:
    """A session of its own that has just ``said`` something."""
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "pytest", *REMOTE, "-v"],
        cwd=project.path,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(project.mkdir("tmp"))},
    )
    assert process.stdout is not None
    shown = []
    while not shown or said not in shown[-1]:
        shown.append(process.stdout.readline())
        assert shown[-1], shown
    return process


@pytest.mark.parametrize("after", ["grpo: phase 2: running", "test_replayed PASSED"])
def test_ctrl_c_leaves_nothing_running(project: pytest.Pytester, after: str) -> None:
    project.makepyfile(test_suite=SLEEPS)
    process = start_until(project, after)
    children = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
    assert children
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=15)
    assert process.returncode == pytest.ExitCode.INTERRUPTED
    assert "KeyboardInterrupt" in output
    assert are_gone(children)
    assert list(project.path.glob("tmp/grpo-worker-*")) == []


def test_a_killed_session_leaves_nothing_either(project: pytest.Pytester) -> None:
    project.makepyfile(test_suite=SLEEPS)
    process = start_until(project, "test_replayed PASSED")
    children = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
    assert list(project.path.glob("tmp/grpo-worker-*"))
    process.kill()
    process.communicate(timeout=15)
    assert are_gone(children)
    assert list(project.path.glob("tmp/grpo-worker-*")) == []
