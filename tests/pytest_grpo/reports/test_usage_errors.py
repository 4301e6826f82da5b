from __future__ import annotations

import pytest

MISTAKE = """
import pytest

@pytest.mark.phase2
def test_mistake(grpo_gate):
    grpo_gate.check("nonsense", 1)
"""
MISTAKE_IN_A_FUNCTION = """\
from pytest_grpo import nothing_to_check

def compare(x):
    assert x.seconds <= 2.0

def test_absolute(grpo_arms):
    compare(*grpo_arms(agree=nothing_to_check, x=list))

def test_bad_return(grpo_arms):
    x, y = grpo_arms(agree=nothing_to_check, x=lambda: "nothing", y=dict); assert x.seconds <= y.seconds

def test_forgotten(grpo_arms):
    grpo_arms(agree=nothing_to_check, x=dict)
"""
RED_GATE = """
import pytest

@pytest.mark.phase2
def test_red(grpo_gate):
    grpo_gate.check("adapter_cache_hits", 2)
"""
RED_TEST = "def test_red(): assert 1 == 2"
RED_IN_TEARDOWN = """
import pytest

@pytest.fixture
def broken():
    yield
    raise RuntimeError("no teardown")

def test_red(broken): pass
"""
INCONCLUSIVE = """
import pytest

def test_unclear(): pytest.xfail("inconclusive")
"""
IN_ONE_TEST = """
import pytest

@pytest.mark.phase2
def test_both(grpo_gate):
    try:
        grpo_gate.check("adapter_cache_hits", 2)
    except AssertionError:
        grpo_gate.check("nonsense", 1)
"""
FOREIGN = """
import pytest

def test_own():
    raise pytest.UsageError("said by the test")

@pytest.fixture
def prepared():
    raise pytest.UsageError("said by a fixture")

def test_fixture(prepared): pass

def test_of_a_plugin(request):
    request.config.hook.pytest_complain()

def test_of_pytest(request):
    request.config.getini("no_such_ini")
"""
COMPLAINS = """
import pytest

class Hooks:
    def pytest_complain(self): ...

def pytest_addhooks(pluginmanager):
    pluginmanager.add_hookspecs(Hooks)

def pytest_complain():
    raise pytest.UsageError("said by a plugin")
"""


@pytest.mark.parametrize(
    ("files", "exit_code"),
    [
        ({"test_mistake": MISTAKE}, pytest.ExitCode.USAGE_ERROR),
        ({"test_mistake": MISTAKE, "test_unclear": INCONCLUSIVE}, pytest.ExitCode.USAGE_ERROR),
        ({"test_mistake": MISTAKE, "test_red": RED_GATE}, pytest.ExitCode.TESTS_FAILED),
        ({"test_a": RED_GATE, "test_mistake": MISTAKE}, pytest.ExitCode.TESTS_FAILED),
        ({"test_mistake": MISTAKE, "test_red": RED_TEST}, pytest.ExitCode.TESTS_FAILED),
        ({"test_mistake": MISTAKE, "test_red": RED_IN_TEARDOWN}, pytest.ExitCode.TESTS_FAILED),
        ({"test_both": IN_ONE_TEST}, pytest.ExitCode.TESTS_FAILED),
    ],
    ids=["mistake", "and xfail", "and red gate", "after red gate", "and red test", "and error", "in one test"],
)
def test_a_mistake_ends_with_4_unless_something_is_red(
    project: pytest.Pytester, files: dict[str, str], exit_code: pytest.ExitCode
) -> None:
    project.makepyfile(**files)
    (project.path / "test_suite.py").unlink()
    names = [f"{name}.py" for name in files]
    result = project.runpytest(*names)
    assert result.ret == exit_code
    result.stdout.fnmatch_lines(["test_*.py:*: grpo: no threshold 'nonsense' *"])


def test_a_mistake_says_where_the_statement_is(project: pytest.Pytester) -> None:
    project.makepyfile(test_mistake=MISTAKE_IN_A_FUNCTION)
    result = project.runpytest("test_mistake.py")
    result.stdout.fnmatch_lines_random(
        [
            "test_mistake.py:4: grpo: x.seconds against 2.0: an absolute time *",
            "test_mistake.py:10: grpo: arm 'x' returned 'nothing'; allowed are *",
            "test_mistake.py:12: grpo: grpo_arms(x): no arm is ever compared, *",
        ]
    )


def test_a_gate_in_a_traceback_names_its_test(project: pytest.Pytester) -> None:
    project.makepyfile(test_red="def test_red(grpo_arms): raise RuntimeError")
    result = project.runpytest("test_red.py")
    result.stdout.fnmatch_lines(["grpo_arms = <bound method Gate.measure of <gate of test_red.py::test_red>>"])


@pytest.mark.usefixtures("few_plugins")
@pytest.mark.slow
def test_a_mistake_and_a_red_gate_of_xdist_workers_are_red(project: pytest.Pytester) -> None:
    project.makepyfile(test_mistake=MISTAKE, test_red=RED_GATE)
    result = project.runpytest("-n2", "test_mistake.py", "test_red.py")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert project.runpytest("-n1", "test_mistake.py").ret == pytest.ExitCode.USAGE_ERROR


def test_a_session_with_a_mistake_stores_no_baseline(project: pytest.Pytester) -> None:
    project.makepyfile(test_mistake=MISTAKE, test_red=RED_GATE)
    result = project.runpytest("--grpo-save=now", "test_mistake.py", "test_red.py")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.no_fnmatch_line("grpo: stored as *")
    result.stdout.fnmatch_lines(
        ["grpo: baseline now was not stored: a test ended with a usage error; correct it and measure again"]
    )


@pytest.mark.parametrize("has_gates", [False, True])
def test_usage_errors_of_others_stay_as_they_are(
    pytester: pytest.Pytester, project: pytest.Pytester, has_gates: bool
) -> None:
    if not has_gates:
        (project.path / "bench/thresholds.toml").unlink()
    project.makeconftest(COMPLAINS)
    project.makepyfile(test_suite=FOREIGN)
    with_it = project.runpytest("--color=no")
    without = project.runpytest("--color=no", "-p", "no:grpo", "-W", "ignore")
    assert with_it.ret == without.ret == pytest.ExitCode.TESTS_FAILED
    with_it.assert_outcomes(failed=3, errors=1)
    with_it.stdout.fnmatch_lines([f"E *said by {who}" for who in ("a fixture", "the test", "a plugin")])
    with_it.stdout.no_fnmatch_line("*grpo: *")
