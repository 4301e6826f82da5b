from __future__ import annotations

import pytest

from tests.pytest_grpo.gate.bodies import FASTER, HEAD, SLOWER, run_gate

TOO_SLOW = f"{SLOWER}; not_asserted = a.tokens >= 2 * b.tokens"
RED_CHECK = "grpo_gate.check('adapter_cache_hits', 2)"
OPEN = f"{FASTER}; assert a.tokens >= 2 * b.tokens"
UNDECIDED = ["--grpo-pairs=5"]
"""Too few pairs for a verdict."""


@pytest.mark.parametrize(
    "body",
    [
        TOO_SLOW,
        f"{SLOWER}; assert not (a.tokens >= 2 * b.tokens)",
        f"{TOO_SLOW}; pytest.skip('a slow machine')",
        f"{SLOWER}\n    with pytest.raises(AssertionError): assert a.tokens >= 2 * b.tokens",
        f"try: {RED_CHECK}\n    except AssertionError: pass",
    ],
)
def test_a_red_verdict_fails_a_test_that_does_not_assert_it(project: pytest.Pytester, body: str) -> None:
    result = run_gate(project, body)
    result.assert_outcomes(failed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*: fail: measured *, threshold *", "0 pass, 1 fail, 0 inconclusive on cpu*"])


def test_the_first_failure_of_a_test_stays_its_failure(project: pytest.Pytester) -> None:
    result = run_gate(project, f"{TOO_SLOW}; raise KeyError('first')")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E *KeyError: 'first'"])
    result.stdout.no_fnmatch_line("tokens: fail: *")


@pytest.mark.parametrize(
    "body",
    [
        FASTER,
        f"{FASTER}; assert a",
        f"{FASTER}; assert a.tokens >= 2 * b.tokens; c, d = grpo_arms(agree=same_tokens, a=at(1), b=at(2))",
    ],
)
def test_arms_that_are_never_compared_are_a_mistake(project: pytest.Pytester, body: str) -> None:
    result = run_gate(project, body)
    result.assert_outcomes(failed=1)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stdout.fnmatch_lines(["test_gate.py:*: grpo: grpo_arms(a, b): no arm is ever compared, so nothing was *"])


@pytest.mark.parametrize("body", [f"{FASTER}; pytest.skip('no device')", f"{FASTER}; pytest.xfail('known')"])
def test_a_test_that_ends_early_need_not_compare(project: pytest.Pytester, body: str) -> None:
    result = run_gate(project, body)
    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(skipped="skip" in body, xfailed="xfail" in body)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("a.seconds", "test_gate.py:*: grpo: a.seconds alone is neither true nor false; compare it, *"),
        ("a.num_x", "*assert a.num_x >= 1"),
    ],
)
def test_a_quantity_has_no_truth_value(project: pytest.Pytester, value: str, says: str) -> None:
    result = run_gate(project, f"a, b = grpo_arms(agree=same_tokens, a=at(1, num_x=0), b=at(1)); assert {value}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stdout.fnmatch_lines([says])


def test_an_exact_check_behind_an_inconclusive_gate_is_evaluated(project: pytest.Pytester) -> None:
    for inconclusive in ("xfail", "fail"):
        result = run_gate(project, f"{OPEN}; {RED_CHECK}", *UNDECIDED, "-o", f"grpo_inconclusive={inconclusive}")
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(
            ["E *adapter_cache_hits: fail: measured 2, threshold == 1 *", "0 pass, 1 fail, 1 inconclusive on cpu*"]
        )


def test_all_inconclusive_gates_of_a_test_are_named(project: pytest.Pytester) -> None:
    body = f"{OPEN}; assert a.seconds <= 2 * b.seconds; grpo_gate.check('adapter_cache_hits', 1)"
    result = run_gate(project, body, *UNDECIDED)
    result.assert_outcomes(xfailed=1)
    result.stdout.fnmatch_lines(
        ["1 pass, 0 fail, 2 inconclusive on cpu*", "XFAIL *tokens: inconclusive: *; seconds: inconclusive: *"]
    )
    run_gate(project, body, *UNDECIDED, "-o", "grpo_inconclusive=fail").assert_outcomes(failed=1)


def test_runxfail_does_not_turn_an_inconclusive_gate_green(project: pytest.Pytester) -> None:
    run_gate(project, OPEN, *UNDECIDED, "--runxfail").assert_outcomes(failed=1)


SUITE = (
    HEAD
    + """
@pytest.mark.xfail(reason="known", strict=STRICT)
class TestKnown:
    def test_red(self, grpo_arms):
        a, b = grpo_arms(agree=same_tokens, a=at(10), b=at(30))
        assert a.tokens >= 2 * b.tokens

    def test_red_without_assert(self, grpo_arms):
        a, b = grpo_arms(agree=same_tokens, a=at(10), b=at(30))
        a.tokens >= 2 * b.tokens

    def test_never_compared(self, grpo_arms):
        grpo_arms(agree=same_tokens, a=at(10), b=at(30))

    def test_green(self, grpo_arms):
        a, b = grpo_arms(agree=same_tokens, a=at(30), b=at(10))
        assert a.tokens >= 2 * b.tokens

@pytest.mark.parametrize("speed", [30, 10])
def test_parametrized(grpo_arms, speed):
    a, b = grpo_arms(agree=same_tokens, a=at(speed), b=at(10))
    a.tokens >= 2 * b.tokens
"""
)


@pytest.mark.parametrize("strict", [pytest.param(False, marks=pytest.mark.slow), True])
def test_each_test_is_judged_by_its_own_verdicts_and_marks(project: pytest.Pytester, strict: bool) -> None:
    project.makepyfile(test_known=SUITE.replace("STRICT", str(strict)))
    result = project.runpytest("test_known.py", "-rA")
    result.assert_outcomes(passed=1, xfailed=3, failed=1 + strict, xpassed=not strict)
    result.stdout.fnmatch_lines(["FAILED test_known.py::test_parametrized[[]10[]]*"])


SUBTESTS = """
@pytest.mark.phase2
def test_gate(grpo_arms, subtests):
    a, b = grpo_arms(agree=same_tokens, a=at(10), b=at(30))
    with subtests.test("gate"):
        {body}
"""


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("assert a.tokens >= 2 * b.tokens", "E *tokens: fail: *"),
        ("raise KeyError('lost')", "E *KeyError: 'lost'"),
    ],
)
def test_what_fails_in_a_subtest_is_no_mistake(project: pytest.Pytester, body: str, says: str) -> None:
    project.makepyfile(test_subtests=HEAD + SUBTESTS.format(body=body))
    result = project.runpytest("test_subtests.py")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines([says])
    result.stdout.no_fnmatch_line("*never compared*")


UNITTEST = """
import unittest

class TestCase(unittest.TestCase):
    @pytest.fixture(autouse=True)
    def arms(self, grpo_arms):
        self.arms = grpo_arms

    def test_first_failure(self):
        a, b = self.arms(agree=same_tokens, a=at(10), b=at(30))
        self.fail("first")

    def test_not_asserted(self):
        a, b = self.arms(agree=same_tokens, a=at(10), b=at(30))
        a.tokens >= 2 * b.tokens

    def test_skipped_after_a_red_verdict(self):
        a, b = self.arms(agree=same_tokens, a=at(10), b=at(30))
        a.tokens >= 2 * b.tokens
        self.skipTest("a slow machine")

    def test_skipped(self):
        self.skipTest("no device")

    def test_green(self):
        a, b = self.arms(agree=same_tokens, a=at(30), b=at(10))
        self.assertTrue(a.tokens >= 2 * b.tokens)
"""


def test_a_unittest_case_is_judged_as_well(project: pytest.Pytester) -> None:
    project.makepyfile(test_case=HEAD + UNITTEST)
    result = project.runpytest("test_case.py")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=1, failed=3, skipped=1)
    result.stdout.fnmatch_lines(["E *AssertionError: first", "tokens: fail: measured *"])
    result.stdout.fnmatch_lines(["FAILED *::test_skipped_after_a_red_verdict - tok*"])


LATE = """
@pytest.fixture
def arms(grpo_arms):
    yield (arms := grpo_arms(agree=same_tokens, a=at(10), b=at(10)))
    arms[0].tokens >= {factor} * arms[1].tokens

def test_late(arms):
    assert arms[0].tokens >= 0.5 * arms[1].tokens
"""


@pytest.mark.slow
def test_a_red_verdict_of_the_teardown_fails_it(project: pytest.Pytester) -> None:
    project.makepyfile(test_late=HEAD + LATE.format(factor=2))
    result = project.runpytest("test_late.py")
    result.assert_outcomes(passed=1, errors=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["tokens: fail: measured 1 *", "1 pass, 1 fail, 0 inconclusive *"])
    project.makepyfile(test_late=HEAD + LATE.format(factor=0.9))
    project.runpytest("test_late.py").assert_outcomes(passed=1)


def test_arms_of_another_test_cannot_be_compared(project: pytest.Pytester) -> None:
    """Its report is written, so that the verdict would be in none."""
    later = "kept = []\ndef test_first(grpo_arms):\n    kept[:] = grpo_arms(agree=same_tokens, a=at(10), b=at(30))\n"
    later += "    assert kept[0].tokens <= kept[1].tokens\ndef test_later():\n    kept[0].tokens >= kept[1].tokens\n"
    project.makepyfile(test_kept=f"{HEAD}\n{later}")
    result = project.runpytest("test_kept.py")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["test_kept.py:*: grpo: tokens: compared after test_kept.py::test_first had ended; *"])
