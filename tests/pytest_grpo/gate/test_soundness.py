from __future__ import annotations

import pytest

from tests.pytest_grpo.gate.bodies import FASTER, HEAD, run_gate

FAST = f"{FASTER}; assert a.tokens >= 2 * b.tokens"
RED_LATER = "grpo_gate.check('adapter_cache_hits', 2)"
UNSOUND = "phase 2 is not sound: adapter_cache_hits is red"

SUITE = (
    HEAD
    + """
@pytest.mark.phase2
def test_fast(grpo_arms):
    a, b = grpo_arms(agree=same_tokens, a=at(30), b=at(10))
    assert a.tokens >= 2 * b.tokens

@pytest.mark.phase2
def test_slow(grpo_arms):
    a, b = grpo_arms(agree=same_tokens, a=at(10), b=at(30))
    assert a.tokens_per_second >= 2 * b.tokens_per_second

@pytest.mark.phase3
def test_other_phase(grpo_arms):
    a, b = grpo_arms(agree=same_tokens, a=at(10), b=at(30))
    assert a.seconds <= 2 * b.seconds

@pytest.mark.phase2
def test_exact(grpo_gate):
    grpo_gate.check("adapter_cache_hits", HITS)
"""
)


@pytest.mark.parametrize("arguments", [[], ["-n1"], pytest.param(["--grpo-remote=subprocess"], marks=pytest.mark.slow)])
@pytest.mark.usefixtures("few_plugins")
def test_a_phase_that_is_not_sound_has_no_speed(project: pytest.Pytester, arguments: list[str]) -> None:
    project.makepyfile(test_suite=SUITE.replace("HITS", "2"))
    result = project.runpytest("-rx", "--phase=all", *arguments)
    result.assert_outcomes(passed=1, xfailed=1, failed=2)
    result.stdout.fnmatch_lines(
        [
            "2      adapter_cache_hits *fail",
            "2      tokens *3 [[]3, 3] *inconclusive",
            "2      tokens_per_second *fail",
            "3      seconds *pass",
            f"XFAIL *tokens: inconclusive: {UNSOUND}",
        ]
    )


def test_a_sound_phase_has_a_speed(project: pytest.Pytester) -> None:
    project.makepyfile(test_suite=SUITE.replace("HITS", "1"))
    project.runpytest("--phase=all").assert_outcomes(passed=3, failed=1)


@pytest.mark.parametrize(
    "body",
    [f"try: {RED_LATER}\n    except AssertionError: pass\n    {FAST}", f"{FAST}; {RED_LATER}"],
)
def test_it_holds_inside_one_test_in_either_order(project: pytest.Pytester, body: str) -> None:
    result = run_gate(project, body, "--junitxml=out.xml")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"inconclusive: tokens: {UNSOUND}", "0 pass, 1 fail, 1 inconclusive on *"])
    assert project.path.joinpath("out.xml").read_text().count('name="grpo.tokens"') == 1


def test_a_test_without_a_phase_stands_for_itself(project: pytest.Pytester) -> None:
    source = (
        HEAD
        + f"""
def test_both(grpo_arms):
    {"; ".join(FAST.split("; "))}
    assert a.num_x == 2

def test_other(grpo_arms):
    {"; ".join(FAST.split("; "))}
"""
    )
    project.makepyfile(test_suite=source.replace("at(30)", "at(30, num_x=1)"))
    result = project.runpytest()
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(["inconclusive: tokens: the test is not sound: a.num_x is red"])
