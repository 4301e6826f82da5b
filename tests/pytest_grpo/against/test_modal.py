"""Two versions compared in a container."""

from __future__ import annotations

import sys

import pytest

from tests.modal_server import ModalServer
from tests.pytest_grpo.against.conftest import Versions
from tests.pytest_grpo.remote.modal.test_remote import APP
from tests.pytest_grpo.repositories import commit_files, git

PHASE = "import pytest, library\npytestmark = pytest.mark.phase2\n"


@pytest.fixture
def on_modal(versions: Versions, modal_server: ModalServer, monkeypatch: pytest.MonkeyPatch) -> Versions:
    """The project with an app, and a Modal to run it on; its tests have a phase."""
    monkeypatch.delitem(sys.modules, "app", raising=False)
    monkeypatch.syspath_prepend(versions.here)
    (versions.here / "app.py").write_text(APP)
    for folder in (versions.here, versions.other):
        versions.change(folder, "import library\n", PHASE, file="test_speed.py")
    return versions


@pytest.mark.slow
def test_both_sides_run_in_one_container(on_modal: Versions, modal_server: ModalServer) -> None:
    on_modal.change(on_modal.other, "1.0, 7.0", "1.2, 7.1")
    on_modal.change(on_modal.here, "return SECONDS", "import os\n    os.environ['MODAL_TASK_ID']\n    return SECONDS")
    on_modal.change(on_modal.other, "return SECONDS", "import os\n    os.environ['MODAL_TASK_ID']\n    return SECONDS")
    with (on_modal.other / "test_speed.py").open("a") as file:
        file.write("\ndef test_old(grpo_arms): pass\n")
    (on_modal.other / "server.pem").write_text("secret")
    result = on_modal.run("--phase", "2", "--modal", "--grpo-expect", "step.tokens_per_second>=1.1")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        [
            "*grpo: here over other*",
            "phase 2  test_speed",
            "  step.tokens_per_second*faster",
            "grpo: gone here: test_speed.py::test_old is in other only",
        ]
    )
    result.stdout.fnmatch_lines(["*answers differ:*7 and 7.1*"])
    result.stdout.fnmatch_lines(["grpo: not sent, for they look like secrets: server.pem"])
    assert modal_server.num_started == 1
    modal_server.wait_until(lambda: modal_server.num_containers() == 0)


@pytest.mark.slow
def test_phases_that_compare_in_containers_of_their_own_share_what_is_expected(on_modal: Versions) -> None:
    on_modal.change(on_modal.here, "1.0, 7.0", "1.2, 7.0")
    for folder in (on_modal.here, on_modal.other):
        text = (folder / "test_speed.py").read_text().replace("phase2", "phase3")
        (folder / "test_more.py").write_text(text.replace("test_speed", "test_more").replace("step", "more"))
        on_modal.change(
            folder, "testpaths = test_speed.py", "testpaths = test_speed.py test_more.py", file="pytest.ini"
        )
    asked = ("--phase", "2,3", "--modal", "--modal-max-containers=1")
    result = on_modal.run(*asked, "--grpo-expect", "step.speed>=1.3")
    result.assert_outcomes(failed=2)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stdout.fnmatch_lines(
        ["grpo: --grpo-expect step.speed>=1.3: no test measured it on both sides; *more.*, step.*"]
    )
    assert on_modal.run(*asked, "--grpo-expect", "step.tokens_per_second<=9").ret == pytest.ExitCode.TESTS_FAILED


@pytest.mark.slow
def test_a_revision_travels_and_its_answers_are_compared_there(on_modal: Versions) -> None:
    git(on_modal.here, "init", "-q")
    git(on_modal.here, "config", "user.email", "a@b")
    git(on_modal.here, "config", "user.name", "a")
    commit_files(on_modal.here, {".gitignore": "__pycache__\n.pytest_cache\n"})
    on_modal.change(on_modal.here, "7.0", "7.1")
    asked = ("--grpo-against=HEAD", "--grpo-pairs=10,20", "--phase", "2", "--modal", "--grpo-same-answers")
    result = on_modal.pytester.runpytest(*asked)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*grpo: here over HEAD*", "*answers differ:*7.1 and 7*"])


@pytest.mark.slow
def test_a_test_without_a_phase_is_compared_here(on_modal: Versions, modal_server: ModalServer) -> None:
    for folder in (on_modal.here, on_modal.other):
        on_modal.change(folder, PHASE, "import library\n", file="test_speed.py")
    on_modal.run("--modal").assert_outcomes(passed=1)
    assert modal_server.num_started == 0


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--grpo-with", "pytest==8.0"), "*--grpo-with pytest==8.0 with --modal: the container's image has one *"),
        (("--modal-detach",), "*--grpo-against with a detached run: *"),
    ],
)
def test_what_a_container_cannot_do_is_one_line(on_modal: Versions, arguments: tuple[str, ...], line: str) -> None:
    result = on_modal.run("--phase", "2", "--modal", *arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([line])


@pytest.mark.slow
def test_the_code_of_the_other_side_there_is_the_code_here(on_modal: Versions) -> None:
    (on_modal.here / "conftest.py").write_text(
        "import pathlib\n"
        "sent = pathlib.Path(__file__).with_name('.grpo-other')\n"
        "if sent.is_dir(): (sent / 'library.py').write_text('SECONDS = 2')\n"
    )
    result = on_modal.run("--phase", "2", "--modal")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: phase 2: the code there differs: .grpo-other/library.py; *"])
