"""What goes wrong with Modal: it ends in time, with the right report, nothing left running and nothing lost."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.modal_server import ModalServer
from tests.pytest_grpo.remote.modal.test_remote import on_modal as on_modal

ON_MODAL = ("--phase", "2", "--modal")
SUITE = """
import pathlib, pytest, time
pytestmark = pytest.mark.phase2
@pytest.mark.slow
@pytest.mark.slow
@pytest.mark.slow
def test_one(): pass
def test_two():
    time.sleep(0.5)  # what came before has arrived
    pathlib.Path({mark!r}).touch()
    time.sleep({pause_s})
def test_three(): pass
"""


@pytest.fixture
def mark(on_modal: pytest.Pytester, tmp_path: Path) -> Path:
    """Appears when test_two runs in its container."""
    path = tmp_path / "running"
    on_modal.makepyfile(test_suite=SUITE.format(mark=str(path), pause_s=2))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.usefixtures("mark")
def test_a_killed_container_is_replaced_and_nothing_is_said_twice(
    on_modal: pytest.Pytester, modal_server: ModalServer, times: int
) -> None:
    modal_server.kill_on("run_pytest", on_chunk=2, times=times, delay_s=1)
    result = on_modal.runpytest(*ON_MODAL, "-v")
    result.assert_outcomes(passed=3)
    assert len([line for line in result.outlines if "test_one PASSED" in line]) == 1
    assert modal_server.num_started > times
    modal_server.wait_until(lambda: modal_server.num_containers() == 0)


@pytest.mark.slow
@pytest.mark.usefixtures("mark")
def test_a_container_that_is_killed_for_good_makes_errors(on_modal: pytest.Pytester, modal_server: ModalServer) -> None:
    modal_server.kill_on("run_pytest", on_input=1, times=-1)
    result = on_modal.runpytest(*ON_MODAL, "--modal-retries=1")
    result.assert_outcomes(errors=3)
    result.stdout.fnmatch_lines(["*has no result from where it ran: Modal lost its container: *crashed* (2 times)"])
    modal_server.wait_until(lambda: modal_server.num_containers() == 0)


def lose_when(mark: Path, server: ModalServer, duration_s: float | None) -> threading.Thread:
    def lose() -> None:
        server.wait_until(mark.exists, 60)
        server.lose(duration_s)

    thread = threading.Thread(target=lose)
    thread.start()
    return thread


@pytest.mark.slow
def test_a_server_that_is_gone_for_5_s_costs_nothing(
    on_modal: pytest.Pytester, modal_server: ModalServer, mark: Path
) -> None:
    thread = lose_when(mark, modal_server, 5.0)
    on_modal.runpytest(*ON_MODAL).assert_outcomes(passed=3)
    thread.join()


@pytest.mark.slow
def test_a_server_that_is_gone_while_the_image_is_built_costs_nothing(
    on_modal: pytest.Pytester, modal_server: ModalServer, mark: Path
) -> None:
    modal_server.faults.image_build_s = 3

    def lose() -> None:
        modal_server.wait_until(lambda: modal_server.num_requests > 3, 60)
        modal_server.lose(2.0)

    thread = threading.Thread(target=lose)
    thread.start()
    on_modal.runpytest(*ON_MODAL).assert_outcomes(passed=3)
    thread.join()


@pytest.mark.slow
def test_a_server_that_is_gone_from_the_start_makes_errors(
    on_modal: pytest.Pytester, modal_server: ModalServer
) -> None:
    modal_server.lose()
    result = on_modal.runpytest(*ON_MODAL)
    result.assert_outcomes(errors=1, deselected=3)
    result.stdout.fnmatch_lines(["*test_two has no result from where it ran: Modal cannot be reached: *"])


@pytest.mark.slow
def test_a_server_that_is_gone_for_good_makes_errors(
    on_modal: pytest.Pytester, modal_server: ModalServer, mark: Path
) -> None:
    thread = lose_when(mark, modal_server, None)
    result = on_modal.runpytest(*ON_MODAL)
    thread.join()
    result.assert_outcomes(passed=1, errors=2)
    result.stdout.fnmatch_lines(["*test_two has no result from where it ran: Modal cannot be reached: *"])


@pytest.mark.slow
def test_a_container_over_its_time_limit_makes_errors_and_is_not_tried_again(
    on_modal: pytest.Pytester, modal_server: ModalServer, tmp_path: Path
) -> None:
    on_modal.makepyfile(test_suite=SUITE.format(mark=str(tmp_path / "mark"), pause_s=60))
    result = on_modal.runpytest(*ON_MODAL, "--modal-timeout=10")
    result.assert_outcomes(passed=1, errors=2)
    result.stdout.fnmatch_lines(["*Modal stopped it at its time limit: *; raise --modal-timeout"])
    assert modal_server.num_started == 1


def test_expired_credentials_are_one_line(on_modal: pytest.Pytester, modal_server: ModalServer) -> None:
    modal_server.faults.refuses_credentials = True
    result = on_modal.runpytest(*ON_MODAL)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --modal: Modal refused your credentials: *expired; run 'modal token new'"])


@pytest.mark.slow
def test_credentials_that_expire_while_a_phase_runs_end_the_session(
    on_modal: pytest.Pytester, modal_server: ModalServer, mark: Path
) -> None:
    def expire() -> None:
        modal_server.wait_until(mark.exists, 60)
        modal_server.faults.refuses_credentials = True
        modal_server.lose(0.5)  # what was open is asked for again

    thread = threading.Thread(target=expire)
    thread.start()
    result = on_modal.runpytest(*ON_MODAL, "--junitxml=junit.xml")
    thread.join()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --modal: Modal refused your credentials: *expired; run 'modal token new'"])
    assert 'name="test_one"' in (on_modal.path / "junit.xml").read_text()  # what was known is kept


# Modal itself begins a lost container's work four times. It drops as many chunks as it already had, and how many those
# are is a matter of time: either the fourth loss is told, or a chunk of a later beginning that does not follow.
CONTAINER_LOST = (
    r"(Modal lost its container: .*crashed 4 times in a row|its container was replaced in the middle of the run)"
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("breaks", "num_passed", "says"),
    [
        ("os._exit(7)", 2, "pytest ended there with exit code 7 while it ran"),
        ("os.kill(os.getppid(), 9)", 1, CONTAINER_LOST),
    ],
)
def test_a_test_that_takes_its_process_or_its_container_down_is_an_error(
    on_modal: pytest.Pytester, modal_server: ModalServer, breaks: str, num_passed: int, says: str
) -> None:
    on_modal.makepyfile(
        test_suite="import os, pytest, time\npytestmark = pytest.mark.phase2\n"
        f"def test_one(): pass\ndef test_two(): time.sleep(0.5); {breaks}\ndef test_three(): pass"
    )
    result = on_modal.runpytest(*ON_MODAL, "--modal-retries=0")
    result.assert_outcomes(passed=num_passed, errors=3 - num_passed)
    result.stdout.re_match_lines([f".*test_two has no result from where it ran: {says}"])
    modal_server.wait_until(lambda: modal_server.num_containers() == 0)


@pytest.mark.slow
def test_an_internal_error_there_is_an_error_that_shows_it(on_modal: pytest.Pytester) -> None:
    on_modal.makeconftest(
        """
        import os

        def pytest_runtest_logfinish(nodeid):
            if "MODAL_TASK_ID" in os.environ and "second" in nodeid:
                raise RuntimeError("broken hook")
        """
    )
    on_modal.makepyfile(
        test_suite="import pytest\npytestmark = pytest.mark.phase2\n"
        "def test_first(): pass\ndef test_second(): pass\ndef test_third(): pass"
    )
    result = on_modal.runpytest(*ON_MODAL)
    result.assert_outcomes(passed=1, errors=2)
    result.stdout.fnmatch_lines(["*pytest ended there with exit code 3*", "INTERNALERROR> RuntimeError: broken hook"])


@pytest.mark.slow
def test_other_code_there_stops_the_session(on_modal: pytest.Pytester) -> None:
    on_modal.makeconftest(
        "import os, pathlib\nif 'MODAL_TASK_ID' in os.environ:\n    pathlib.Path('other.py').write_text('CHANGED = 1')"
    )
    on_modal.makepyfile(other="CHANGED = 0")
    result = on_modal.runpytest(*ON_MODAL)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: phase 2: the code there differs: other.py; save your files and *"])


@pytest.mark.slow
def test_large_output_comes_through(on_modal: pytest.Pytester) -> None:
    on_modal.makepyfile(
        test_suite="import pytest\n@pytest.mark.phase2\ndef test_large():\n    print('x' * (10 << 20))\n    assert 0"
    )
    run = on_modal.inline_run(*ON_MODAL, "-qq", "--tb=no", "--show-capture=no")
    call = next(report for report in run.getreports("pytest_runtest_logreport") if report.when == "call")
    assert len(call.capstdout) == (10 << 20) + 1


def start_session(project: pytest.Pytester, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "pytest", *arguments],
        cwd=project.path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.usefixtures("few_plugins")
def test_two_sessions_at_once_do_not_meet_and_keep_the_first_of_one_name(
    on_modal: pytest.Pytester, modal_server: ModalServer
) -> None:
    sessions = [start_session(on_modal, *ON_MODAL, "--grpo-save=same") for _ in range(2)]
    outputs = [session.communicate(timeout=90)[0] for session in sessions]
    assert all("1 passed" in output for output in outputs), outputs
    assert modal_server.num_started == 2
    assert sum("grpo: stored as same" in output for output in outputs) == 1, outputs
    assert sum("exists and is never overwritten" in output for output in outputs) == 1, outputs


@pytest.mark.slow
@pytest.mark.usefixtures("mark", "few_plugins")
@pytest.mark.parametrize("after", ["2: building its image", "2: queued", "2: running", "test_one PASSED"])
def test_ctrl_c_leaves_nothing_running(on_modal: pytest.Pytester, modal_server: ModalServer, after: str) -> None:
    on_modal.makepyfile(test_suite=SUITE.format(mark=str(on_modal.path / "mark"), pause_s=60))
    modal_server.faults.image_build_s = 60 if "building" in after else 0
    modal_server.faults.queue_s = 8 if "queued" in after else 0
    session = start_session(on_modal, *ON_MODAL, "-v")
    output = interrupt(session, after)
    assert session.returncode == pytest.ExitCode.INTERRUPTED, output
    modal_server.wait_until(lambda: modal_server.num_containers() == 0, 20)


@pytest.mark.slow
@pytest.mark.usefixtures("few_plugins")
def test_ctrl_c_while_attached_ends_the_watching_only(on_modal: pytest.Pytester, modal_server: ModalServer) -> None:
    on_modal.makepyfile(test_suite=SUITE.format(mark=str(on_modal.path / "mark"), pause_s=8))
    started = on_modal.runpytest("--phase", "2", "--modal-detach")
    run = next(line for line in started.outlines if line.startswith("grpo: run ")).rpartition(" ")[2]
    session = start_session(on_modal, "--modal-attach", run, "-v")
    output = interrupt(session, f"waiting for run {run}")
    assert session.returncode == pytest.ExitCode.INTERRUPTED, output
    on_modal.runpytest("--modal-attach", run).assert_outcomes(passed=3)
    assert modal_server.num_started == 1


def interrupt(session: subprocess.Popen[str], after: str) -> str:
    """Ctrl-C once it has said ``after``; what it says then."""
    assert session.stdout is not None
    shown = []
    while not shown or after not in shown[-1]:
        shown.append(session.stdout.readline())
        assert shown[-1], shown
    session.send_signal(signal.SIGINT)
    return session.communicate(timeout=25)[0]
