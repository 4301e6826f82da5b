from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_grpo.gate.counts import HeldCount
from pytest_grpo.settings.thresholds import Threshold
from tests.pytest_grpo.gate.bodies import BUSY, HEAD, run_gate

ARMS = "a, b = grpo_arms(agree=same_tokens, a=at(3, num_calls=2, num_none=0), b=at(3, num_calls=6, num_none=0))"


@pytest.mark.parametrize(
    ("assertion", "verdict", "line"),
    [
        ("a.num_calls == 2", "pass", "2      a.num_calls  2         == 2       pass"),
        ("a.num_calls >= 1", "pass", "2      a.num_calls  2         >= 1       pass"),
        ("a.num_calls < 3", "pass", "2      a.num_calls  2         < 3        pass"),
        ("a.num_none == 0", "pass", "2      a.num_none  0         == 0       pass"),
        ("a.num_none == b.num_none", "pass", "2      a/b.num_none  0         == 0       pass"),
        ("3 * a.num_calls == b.num_calls", "pass", "2      a/b.num_calls  2         == 2       pass"),
        ("a.num_calls / 3 <= b.num_calls / 9", "pass", "2      a/b.num_calls  2         <= 2       pass"),
        ("b.num_calls == approx_ratio(a.num_calls, within=(2, 3))", "pass", "* 6         4..6       pass"),
        ("a.num_calls == b.num_none", "fail", "2      a.num_calls/b.num_none  2         == 0       fail"),
        ("a.num_calls == 1", "fail", "fail: a.num_calls: counts are exact: a.num_calls is 2"),
        ("a.num_calls > 2", "fail", "2      a.num_calls  2         > 2        fail"),
        ("b.num_calls > 3 * a.num_calls", "fail", "2      b/a.num_calls  6         > 6        fail"),
        ("b.num_calls < 3 * a.num_calls", "fail", "2      b/a.num_calls  6         < 6        fail"),
        ("b.num_calls == approx_ratio(a.num_calls, within=(4, 5))", "fail", "* 6         8..10      fail"),
        ("a.num_calls <= grpo_threshold('overlap_cost') * b.num_none", "fail", "4      overlap_cost  2         <= 0 *"),
    ],
)
def test_a_count_is_exact_and_has_a_row(project: pytest.Pytester, assertion: str, verdict: str, line: str) -> None:
    result = run_gate(project, f"{ARMS}; assert {assertion}")
    result.assert_outcomes(passed=verdict == "pass", failed=verdict == "fail")
    result.stdout.fnmatch_lines([line])


@pytest.mark.parametrize(
    ("assertion", "says"),
    [
        ("a.num_calls <= float('nan')", "a.num_calls against nan: allowed are finite numbers and counts*"),
        ("a.num_calls <= None", "a.num_calls against None: allowed are finite numbers*"),
        ("a.num_calls != 2", "a.num_calls != 2: no threshold can ask for that; write ==, >= or <="),
        ("a.num_calls <= b.tokens", "*num_calls is an exact count, tokens is measured; compare like with like"),
        ("a.tokens <= b.num_calls", "*num_calls is an exact count, tokens is measured; compare like with like"),
        ("a.num_calls == a.num_calls", "*: one and the same quantity; compare it with another"),
        ("a.num_calls >= grpo_threshold('adapter_cache_hits') * b.num_calls", "*write left == threshold [*] right*"),
        ("a.num_none_per_second >= b.num_calls_per_second", "arm 'a': num_none_per_second 0.0 must be above zero; *"),
    ],
)
def test_what_cannot_be_counted_is_a_mistake(project: pytest.Pytester, assertion: str, says: str) -> None:
    result = run_gate(project, f"{ARMS}; assert {assertion}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stdout.fnmatch_lines([f"test_gate.py:*: grpo: {says}"])


def test_the_rate_of_a_count_is_measured_in_pairs(project: pytest.Pytester) -> None:
    arms = "a, b = grpo_arms(agree=same_tokens, a=at(1, num_tokens=300), b=at(1, num_tokens=100))"
    result = run_gate(project, f"{arms}; assert a.num_tokens_per_second >= 2 * b.num_tokens_per_second")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["2      num_tokens_per_second  3 [[]3, 3]  >= 2       pass"])
    run_gate(project, f"{arms}; assert a.num_tokens_per_second >= 4 * b.num_tokens_per_second").assert_outcomes(
        failed=1
    )
    assert run_gate(project, f"{arms}; assert a.num_tokens_per_second >= 2").ret == pytest.ExitCode.USAGE_ERROR


def test_wrong_answers_fail_a_count_too(project: pytest.Pytester) -> None:
    body = "a, b = grpo_arms(agree=same_tokens, a=at(3, 1, num_x=1), b=at(3, 2, num_x=1)); assert a.num_x == b.num_x"
    run_gate(project, body).stdout.fnmatch_lines(["E *wrong answers: *", "0 pass, 1 fail, 0 inconclusive*"])


def test_a_count_that_changes_in_a_later_round_is_red(project: pytest.Pytester) -> None:
    """It is held against the first round when it is compared, and against all others at the end of the test."""
    body = """
    counts = iter([1] * 6 + [2] * 100)
    a, b = grpo_arms(agree=same_tokens, a=lambda: at(3, num_x=next(counts))(), b=at(3))
    assert a.num_x == 1
    assert a.seconds <= 2 * b.seconds""".strip()
    result = run_gate(project, body)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "a.num_x: fail: measured 2, threshold == 1 *",
            "2 *a.num_x *2 *== 1 *fail",
            "*seconds *inconclusive",
            "0 pass, 1 fail, 1 inconclusive *",
        ]
    )


@pytest.mark.slow
def test_a_count_without_a_round_is_not_a_pass(project: pytest.Pytester) -> None:
    """The speed before it has used up the time, and all its pairs were left out."""
    body = (
        "a, b = grpo_arms(agree=same_tokens, a=at(3, num_x=1), b=at(3, num_x=1)); "
        "assert a.seconds <= 2 * b.seconds; assert a.num_x == 1"
    )
    project.makeconftest(BUSY)
    result = run_gate(project, body, "--grpo-budget=0.2")
    result.assert_outcomes(xfailed=1)
    result.stdout.fnmatch_lines(["XFAIL *a.num_x: inconclusive: no pair was measured within *"])


def test_a_marker_decides_on_counts_exactly(project: pytest.Pytester) -> None:
    marked = """
@pytest.mark.grpo_threshold("num_calls", at_most=BOUND)
def test_marked(grpo_arms):
    grpo_arms(agree=same_tokens, a=at(1, num_calls=4), b=at(1, num_calls=2))
"""
    for bound, outcome in ((2, {"passed": 1}), (1, {"failed": 1})):
        project.makepyfile(test_marked=HEAD + marked.replace("BOUND", str(bound)))
        result = project.runpytest("test_marked.py")
        result.assert_outcomes(**outcome)
        result.stdout.fnmatch_lines([f"-      num_calls  4         <= {2 * bound} *"])


def test_the_counts_of_two_arms_have_rows_of_their_own_in_all_reports(project: pytest.Pytester, tmp_path: Path) -> None:
    body = f"{ARMS}; assert a.num_calls == 2; assert b.num_calls == 6; assert a.num_calls <= b.num_calls"
    run_gate(project, body, "--junitxml=out.xml", "--grpo-save=counts").assert_outcomes(passed=1)
    xml = project.path.joinpath("out.xml").read_text()
    file = tmp_path / "grpo-home" / "data" / "baselines" / "counts.json"
    rows = [row for _, row in json.loads(file.read_text())["results"]]
    names = ["a.num_calls", "b.num_calls", "a/b.num_calls"]
    assert [row["metric"] for row in rows] == names
    assert all(f'name="grpo.{name}"' in xml for name in names)
    assert [(row["kind"], row["measured"], row["bound_low"], row["bound_high"]) for row in rows] == [
        ("equals", 2.0, 2.0, 2.0),
        ("equals", 6.0, 6.0, 6.0),
        ("at_most", 2.0, None, 6.0),
    ]
    assert all(row["num_pairs"] is None and row["ratios"] is None for row in rows)
    result = run_gate(project, body, "--grpo-compare=counts")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*a/b.num_calls*shown only*"])


@pytest.mark.parametrize("divisor", [3, 7, 49, 107])
def test_factors_do_not_round_a_count_away(divisor: int) -> None:
    ratio = Threshold("x", None, "equals", 1 / (1 / divisor), 1 / (1 / divisor))
    assert HeldCount.against(divisor * 12, 12, ratio, is_strict=False).holds
    assert not HeldCount.against(divisor * 12 + 1, 12, ratio, is_strict=False).holds
    at_least = Threshold("x", None, "at_least", 1 / (1 / divisor), float("inf"))
    assert not HeldCount.against(divisor * 12, 12, at_least, is_strict=True).holds
    assert HeldCount.against(divisor * 12 + 1, 12, at_least, is_strict=True).holds


def test_large_counts_differ_by_one() -> None:
    num_flops = 4 * 10**14
    ratio = Threshold("x", None, "equals", 1.0, 1.0)
    assert HeldCount.against(num_flops, num_flops, ratio, is_strict=False).holds
    assert not HeldCount.against(num_flops, num_flops + 1, ratio, is_strict=False).holds
