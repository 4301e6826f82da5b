"""Ordinary tests beside phase tests that run elsewhere: their fixtures live as long as in a local run."""

from __future__ import annotations

import os

import pytest

from tests.modal_server import ModalServer
from tests.pytest_grpo.remote.modal.test_remote import on_modal as on_modal

pytestmark = pytest.mark.usefixtures("few_plugins")

CONFTEST = """
import os, pathlib, pytest

def note(text):
    with pathlib.Path(__file__).with_name("log.txt").open("a") as file:
        file.write(f"{os.getpid()} {text}\\n")

def fixture_of(scope):
    @pytest.fixture(scope=scope, name=scope)
    def of_scope(request):
        name = request.node.name or "session"
        note(f"{scope} {name} set up")
        yield
        note(f"{scope} {name} torn down")
    return of_scope

of_session, of_module, of_class = fixture_of("session"), fixture_of("module"), fixture_of("class")

@pytest.fixture
def noted(request, session, module):
    note(f"{request.node.name} begins")
"""
SUITE = """
import pytest

def test_first(noted): pass

class TestMixed:
    def test_inside(self, noted, request):
        request.getfixturevalue("class")

    @pytest.mark.phase2
    def test_phase_inside(self, module): assert {green}

    def test_inside_too(self, noted, request):
        request.getfixturevalue("class")

    @pytest.mark.phase3
    def test_phase_at_the_end(self): pass

@pytest.mark.phase2
def test_phase(module): pass
"""


@pytest.fixture
def mixed(project: pytest.Pytester) -> pytest.Pytester:
    """Two modules that end with phase tests, one of phase tests alone, and one that begins with a phase test."""
    project.makeconftest(CONFTEST)
    write(project, green=True)
    return project


def write(project: pytest.Pytester, *, green: bool) -> None:
    phase_only = "import pytest\n@pytest.mark.phase2\ndef test_phase(session, module): pass\n"
    project.makepyfile(
        test_a=SUITE.format(green=green),
        test_b=SUITE.format(green=True),
        test_c=phase_only,
        test_d=f"{phase_only}\ndef test_last(noted): pass\n",
        test_suite="",
    )


FILES = ("test_a.py", "test_b.py", "test_c.py", "test_d.py")


def noted_here(project: pytest.Pytester, *arguments: str) -> tuple[pytest.RunResult, list[str]]:
    """What the fixtures and ordinary tests of this process noted."""
    log = project.path / "log.txt"
    log.unlink(missing_ok=True)
    result = project.runpytest("--color=no", *FILES, *arguments)
    lines = [line.partition(" ") for line in log.read_text().splitlines()]
    return result, [text for pid, _, text in lines if pid == str(os.getpid())]


def check_as_local(project: pytest.Pytester, *place: str) -> None:
    result, noted = noted_here(project, *place)
    result.assert_outcomes(passed=15)
    local, noted_locally = noted_here(project)
    local.assert_outcomes(passed=15)
    ordinary = [line for line in noted_locally if "test_c.py" not in line]  # its fixture is for a phase test
    assert noted == ordinary
    assert [line for line in noted if "test_a.py" in line] == ["module test_a.py set up", "module test_a.py torn down"]


@pytest.mark.slow
def test_fixtures_of_ordinary_tests_live_as_in_a_local_run(mixed: pytest.Pytester) -> None:
    check_as_local(mixed, "--grpo-remote=subprocess")


@pytest.mark.slow
def test_fixtures_of_ordinary_tests_live_as_in_a_local_run_with_modal(
    on_modal: pytest.Pytester, mixed: pytest.Pytester, modal_server: ModalServer
) -> None:
    check_as_local(mixed, "--modal")


def test_the_first_failure_elsewhere_ends_the_session_and_tears_down(mixed: pytest.Pytester) -> None:
    write(mixed, green=False)
    result, noted = noted_here(mixed, "--grpo-remote=subprocess", "-x")
    result.assert_outcomes(passed=2, failed=1)
    assert noted[-3:] == ["class TestMixed torn down", "module test_a.py torn down", "session session torn down"]


@pytest.mark.slow
def test_an_error_in_the_teardown_of_a_module_is_reported_at_its_last_test_on_each_side(mixed: pytest.Pytester) -> None:
    broken = (
        'import pytest\n@pytest.fixture(scope="module", autouse=True)\ndef own():\n    yield\n    raise KeyError(1)\n'
    )
    (mixed.path / "test_b.py").write_text(f"{broken}{SUITE.format(green=True)}")
    result, _ = noted_here(mixed, "--grpo-remote=subprocess", "-k", "not phase or phase_at_the_end")
    assert [line for line in result.outlines if line.startswith("ERROR ")] == [
        "ERROR test_b.py::TestMixed::test_inside_too - KeyError: 1",
        "ERROR test_b.py::TestMixed::test_phase_at_the_end - KeyError: 1",
    ]


def test_errors_of_collection_end_the_session(mixed: pytest.Pytester) -> None:
    mixed.makepyfile(test_d="import not_there")
    result = mixed.runpytest(*FILES, "--grpo-remote=subprocess")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(["*1 error during collection*"])
