from __future__ import annotations

import importlib
import os
import subprocess
import sys

import pytest

from tests.pytest_grpo.gate.bodies import BUSY, FASTER, HEAD, RED, SLOWER, run_gate

STALLS = (
    "a, b = grpo_arms(agree=same_tokens, a=varying(10, 10, 2), b=at(10)); "
    "assert a.tokens_per_second >= 0.9 * b.tokens_per_second"
)
UNEQUAL = "a, b = grpo_arms(agree=lambda found: found['a'] == found['b'], a=at(3, 1), b=at(1, 2))"
COUNTED = "(a,) = grpo_arms(agree=same_tokens, a=at(3, num_calls=2))"
ZERO = "a, b = grpo_arms(agree=same_tokens, a=at(0), b=at(1)); assert a.tokens >= b.tokens"
RAISES = """
def work():
        raise {error}("lost")
    a, b = grpo_arms(agree=same_tokens, a=at(1), b=work)
    assert a.tokens >= b.tokens""".strip()


PARTS = (
    "part = lambda backward: lambda: Sample(0.5 + backward, spans={'train.forward': 0.5, 'train.backward': backward}); "
    "a, b = grpo_arms(agree=nothing_to_check, a=part(0.69), b=part(0.5)); assert a.seconds <= 1.02 * b.seconds"
)


def test_a_red_verdict_names_the_part_that_grew_everywhere(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the terminal, as an annotation, and in each report."""
    why = "in a: train.backward +38 % [38, 38], the rest unchanged"
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(project.path / "summary.md"))
    result = run_gate(project, PARTS, "--junitxml=junit.xml", "--grpo-html=page.html")
    result.assert_outcomes(failed=1)
    shown = why.replace("[", "[[]")
    result.stdout.fnmatch_lines([f"fail: *: *{shown}"])
    result.stdout.fnmatch_lines(["::error *train.backward*"])
    for file in ("junit.xml", "page.html", "summary.md"):
        content = (project.path / file).read_text(encoding="utf-8")
        assert "train.backward +38 %" in content, file
        assert "the rest unchanged" in content, file


def test_arms_that_differ_by_design_have_no_part_that_grew(project: pytest.Pytester) -> None:
    body = PARTS.replace("a.seconds <= 1.02 * b.seconds", "2 * a.seconds <= b.seconds")
    result = run_gate(project, body)
    result.assert_outcomes(failed=1)
    result.stdout.no_fnmatch_line("*the rest unchanged*")


@pytest.mark.parametrize(
    "body",
    [
        f"{FASTER}; assert a.tokens_per_second >= 2 * b.tokens_per_second",
        f"{FASTER}; assert a.tokens_per_second > b.tokens_per_second * 2",
        f"{FASTER}; assert a.tokens_per_second / 2 >= b.tokens_per_second",
        f"{FASTER}; assert b.tokens_per_second * 2 <= a.tokens_per_second",
        f"{FASTER}; assert b.tokens_per_second < 0.5 * a.tokens_per_second",
        f"{FASTER}; assert a.tokens_per_second >= grpo_threshold('batched_speedup') * b.tokens_per_second",
        f"{FASTER}; assert a.tokens >= 2 * b.tokens; assert a.seconds <= 1.1 * b.seconds",
        f"{FASTER}; assert a.tokens == approx_ratio(b.tokens, within=(2.5, 3.5))",
        f"{COUNTED}; assert a.num_calls == 2; assert a.num_calls <= 2",
        "grpo_gate.check('adapter_cache_hits', 1)",
    ],
)
def test_what_is_good_enough_passes(project: pytest.Pytester, body: str) -> None:
    run_gate(project, body).assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (RED, "a.tokens_per_second >= 2 [*] b.tokens_per_second"),
        (RED, "measured 0.3333 [[]0.3333, 0.3333]*>= 2*"),
        (RED, "its whole interval lies below the thres*"),
        (RED, "median of 12 pairs with its 99.* interval*"),
        (RED, "arm b: seconds 1, tokens 30"),
        (STALLS, "stalls: 20 of 60 samples of arm a took 5 times its median; the ratio of the means is 0.429"),
        (RED, "device cpu *"),
        (RED, "try: *"),
        (f"{SLOWER}; assert a.seconds <= grpo_threshold('overlap_cost') * b.seconds / 2", "*<= 0.75 (thresholds.t*"),
        (f"{SLOWER}; assert a.tokens == approx_ratio(b.tokens, within=(0.67, 1.5))", "*measured 0.3333*0.67..1.5*"),
        (f"{SLOWER}; assert b.tokens == approx_ratio(a.tokens, within=(0.67, 1.5))", "its whole interval lies above*"),
        (f"{COUNTED}; assert a.num_calls == 1", "counts are exact: a.num_calls is 2"),
        ("grpo_gate.check('adapter_cache_hits', 2)", "*adapter_cache_hits: fail: measured 2, threshold == 1 *"),
        ("grpo_gate.check('adapter_cache_hits', 2, note='as told')", "*measured 2 (as told), threshold == 1 *"),
    ],
)  # fmt: skip
def test_what_falls_short_fails_and_says_all(project: pytest.Pytester, body: str, says: str) -> None:
    result = run_gate(project, body)
    result.assert_outcomes(failed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines([f"E *{says}"])
    result.stdout.no_fnmatch_line("*gates.py*")


def test_a_faster_wrong_answer_is_red_after_one_round(project: pytest.Pytester) -> None:
    body = "a, b = grpo_arms(agree=same_tokens, a=at(30, [1, 2]), b=at(10, [1, 3])); assert a.tokens >= 2 * b.tokens"
    result = run_gate(project, body)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["E *wrong answers: arms 'a' and 'b' answered differently: answer 1 of 2", "E *median of 1 pair with*"]
    )


def test_the_reference_answers_nothing(project: pytest.Pytester) -> None:
    body = "a, b, r = grpo_arms(agree=same_tokens, a=at(30, 1), b=at(10, 1), reference=at(1)); "
    run_gate(project, f"{body}assert a.tokens >= 2 * b.tokens").assert_outcomes(passed=1)


def test_of_two_arms_both_answer_whatever_their_names(project: pytest.Pytester) -> None:
    body = "a, r = grpo_arms(agree=same_tokens, a=at(30, 1), reference=at(10, 2)); assert a.tokens >= 2 * r.tokens"
    result = run_gate(project, body)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E *wrong answers: arms 'a' and 'reference' answered differently"])


def test_what_is_not_finite_is_red(project: pytest.Pytester) -> None:
    """A loss that is NaN is what the gate looks for, and no mistake in the test."""
    for value in ("nan", "inf", "-inf"):
        body = f"grpo_gate.check('overlap_cost', float('{value}'))"
        result = run_gate(project, body, "--junitxml=out.xml", "--grpo-html=page.html", f"--grpo-save=bad{value}")
        result.assert_outcomes(failed=1)
        assert result.ret == pytest.ExitCode.TESTS_FAILED
        shown = "-" if value == "nan" else value
        result.stdout.fnmatch_lines(["E *the value is not finite", f"4 *overlap_cost *{shown} * fail"])
        result.stdout.no_fnmatch_line("*INTERNALERROR*")


def test_agreement_is_close_in_every_value(project: pytest.Pytester) -> None:
    body = "a, b = grpo_arms(agree=close_values(atol=1e-3), a=at(3, [[1.0], [2.0]]), b=at(1, [[1.0], [{}]]))"
    run_gate(project, f"{body.format(2.0005)}; assert a.tokens >= 2 * b.tokens").assert_outcomes(passed=1)
    for wrong in ("2.01", "float('nan')"):
        run_gate(project, f"{body.format(wrong)}; assert a.tokens >= 2 * b.tokens").assert_outcomes(failed=1)


@pytest.mark.parametrize(
    ("body", "arguments", "reason"),
    [
        (f"{FASTER}; assert a.tokens >= 2 * b.tokens", ["--grpo-pairs=5"], "all 5 pairs were taken; a pass needs 6*"),
        (f"{SLOWER}; assert a.tokens >= 2 * b.tokens", ["--grpo-pairs=5"], "all 5 pairs were taken; a failure needs 7"),
        (f"{SLOWER}; assert a.tokens >= 2 * b.tokens", ["--grpo-pairs=8", "--grpo-num-gates=9"], "* failure needs 10"),
        (
            "a, b = grpo_arms(agree=same_tokens, a=varying(10, 10, 12, 12), b=at(11)); assert a.tokens >= b.tokens",
            [],
            "the interval includes the threshold after 40 pairs",
        ),
        (
            # A nap lasts at least 60 ms, and at most a thousand times the other one: no load changes the outcome.
            "a, b = grpo_arms(agree=nothing_to_check, a=naps, b=naps); assert a.seconds <= 1000 * b.seconds",
            ["--grpo-budget=0.1"],  # five times as much holds no six pairs of them
            "* pairs fit into the budget of 0.5 s; a pass needs *",
        ),
    ],
)  # fmt: skip
def test_what_is_not_decided_is_inconclusive_with_its_reason(
    project: pytest.Pytester, body: str, arguments: list[str], reason: str
) -> None:
    result = run_gate(project, body, *arguments)
    result.assert_outcomes(xfailed=1)
    result.stdout.fnmatch_lines(["0 pass, 0 fail, 1 inconclusive on cpu*", f"XFAIL *: inconclusive: {reason}"])


def test_inconclusive_can_fail(project: pytest.Pytester) -> None:
    body = f"{FASTER}; assert a.tokens >= 2 * b.tokens"
    result = run_gate(project, body, "--grpo-pairs=5", "-o", "grpo_inconclusive=fail")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["tokens: inconclusive: *", "  all 5 pairs were taken; *"])


def test_rounds_on_a_busy_machine_can_be_left_out(project: pytest.Pytester) -> None:
    body = (  # no round is quiet, however short it is: counters have an error of some milliseconds
        "a, b = grpo_arms(agree=nothing_to_check, max_cores_of_others=-1000.0, a=lambda: None, b=lambda: None); "
        "assert a.seconds <= 2 * b.seconds"
    )
    result = run_gate(project, body, "--grpo-budget=0.5")
    result.assert_outcomes(xfailed=1)
    result.stdout.fnmatch_lines(
        [
            "XFAIL *no pair was measured within 0.5 s: * left out because other processes used the cores "
            "(waited 0.* s for quiet)"
        ]
    )


def test_every_timing_gate_measures_again_what_others_disturbed(project: pytest.Pytester) -> None:
    body = "a, b = grpo_arms(agree=nothing_to_check, a=lambda: None, b=lambda: None); assert a.seconds <= 2 * b.seconds"
    project.makeconftest(BUSY)
    result = run_gate(project, body, "--grpo-budget=0.5")
    result.assert_outcomes(xfailed=1)
    result.stdout.fnmatch_lines(["XFAIL *no pair was measured within 0.5 s: * left out because other processes used *"])
    counted = "a, b = grpo_arms(agree=same_tokens, a=at(3, num_x=1), b=at(3, num_x=1)); assert a.num_x == b.num_x"
    run_gate(project, counted).assert_outcomes(passed=1)  # load changes no count
    wrong = "a, b = grpo_arms(agree=same_tokens, a=at(30, [1]), b=at(10, [2])); assert a.tokens >= 2 * b.tokens"
    run_gate(project, wrong).assert_outcomes(failed=1)  # and excuses no wrong answer


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("grpo_gate.check('nonsense', 2)", "no threshold 'nonsense' in *; add it there, or use one of *"),
        ("grpo_threshold('nonsense')", "no threshold 'nonsense' in *"),
        ("grpo_gate.check('adapter_cache_hits', None)", "adapter_cache_hits: measured None: allowed is one number*"),
        ("grpo_gate.check('adapter_cache_hits', '1')", "adapter_cache_hits: measured '1': allowed is one number*"),
        ("grpo_arms(agree=same_tokens)", "grpo_arms(): no arms; write *"),
        (f"{FASTER}; assert a.tokns >= b.tokens", "arm 'a' has no tokns; did you mean tokens? allowed are *"),
        (f"{FASTER}; assert a.token_per_second >= b.token_per_second", "*; did you mean tokens_per_second? allowed *"),
        (f"{FASTER}; assert a.flops >= b.flops", "arm 'a' has no flops; allowed are seconds, tokens *"),
        ("grpo_arms(a=at(1), b=at(2))", "grpo_arms(): agree= is missing; write agree=same_tokens or *"),
        ("grpo_arms(agree=close_values, a=at(1), b=at(2))", "grpo_arms(agree=close_values): write *"),
        ("grpo_arms(agree=same_tokens, a=at(1)(), b=at(2))", "grpo_arms(a=Sample(*): allowed is a callable, e.g. *"),
        (f"{UNEQUAL}; assert a.tokens >= b.tokens", "agree= returned False; return what differs, as a line of *"),
        (f"{FASTER}; assert a.tokens == b.tokens", "a.tokens == b.tokens: measured values are never equal; write *"),
        (f"{FASTER}; assert a.seconds <= 2.0", "a.seconds against 2.0: an absolute time depends on the machine; *"),
        (f"{FASTER}; assert a.seconds <= float('nan') * b.seconds", "b.seconds times nan: allowed are numbers*"),
        (f"{FASTER}; assert a.seconds == approx_ratio(b.seconds, within=(2, 1))", "approx_ratio(within=(2, 1)): *"),
        (f"{FASTER}; assert a.tokens <= grpo_threshold('batched_speedup') * b.tokens", "threshold batched_speedup *"),
        (f"{FASTER}; grpo_threshold('forward_over_backward') * b.tokens", "threshold forward_over_backward is a *"),
        (ZERO, "arm 'a': tokens 0 must *"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_ends_the_session_with_a_usage_error(
    project: pytest.Pytester, body: str, says: str
) -> None:
    result = run_gate(project, body)
    result.assert_outcomes(failed=1)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stdout.fnmatch_lines([f"test_gate.py:*: grpo: {says}"])
    result.stdout.no_fnmatch_line("*grpo verdicts*")


@pytest.mark.parametrize("error", ["AssertionError", "ZeroDivisionError", "ValueError", "pytest.UsageError"])
def test_an_arm_that_raises_is_a_failure_of_the_code_under_test(project: pytest.Pytester, error: str) -> None:
    result = run_gate(project, RAISES.format(error=error))
    result.assert_outcomes(failed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        [">       assert a.tokens >= b.tokens", f"> *raise {error}*", f"E *{error}: lost", "E *raised in arm 'b'"]
    )
    result.stdout.no_fnmatch_line("*sampler.py*")
    result.stdout.no_fnmatch_line("*comparison.py*")


def test_an_arm_can_skip_its_test(project: pytest.Pytester) -> None:
    run_gate(project, RAISES.format(error="pytest.skip.Exception")).assert_outcomes(skipped=1)


MARKED = """
@pytest.mark.grpo_threshold("tokens_per_second", at_least={bound})
def test_marked(grpo_arms):
    {body}
"""


def run_marked(project: pytest.Pytester, bound: float, body: str, *arguments: str) -> pytest.RunResult:
    project.makepyfile(test_marked=HEAD + MARKED.format(bound=bound, body=body))
    return project.runpytest("test_marked.py", *arguments)


def test_a_marker_decides_after_the_test(project: pytest.Pytester) -> None:
    run_marked(project, 1.3, FASTER).assert_outcomes(passed=1)
    result = run_marked(project, 3.5, FASTER)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["tokens_per_second: fail: measured 3 [[]3, 3], threshold >= 3.5 (marker grpo_threshold)"]
    )
    overridden = run_marked(project, 3.5, FASTER, "--grpo-threshold=tokens_per_second=2.5")
    overridden.assert_outcomes(passed=1)


def test_an_assertion_with_a_bound_of_its_own_does_not_take_the_place_of_the_marker(project: pytest.Pytester) -> None:
    for bound, outcome in ((2.5, {"passed": 1}), (3.5, {"failed": 1})):
        body = f"{FASTER}; assert a.tokens_per_second >= 1.1 * b.tokens_per_second"
        run_marked(project, bound, body).assert_outcomes(**outcome)
    header = "def test_marked(grpo_arms, grpo_threshold):\n"
    body = f"{FASTER}; assert a.tokens_per_second >= grpo_threshold('tokens_per_second') * b.tokens_per_second"
    source = MARKED.replace("def test_marked(grpo_arms):\n", header).format(bound=2.5, body=body)
    project.makepyfile(test_marked=HEAD + source)
    project.runpytest("test_marked.py").stdout.fnmatch_lines(["1 pass, 0 fail, 0 inconclusive *"])


def test_a_marker_decides_each_comparison_of_the_test(project: pytest.Pytester) -> None:
    """E.g. of a loop over batch sizes; it has decided the last one only."""
    both = f"{SLOWER}; c, d = grpo_arms(agree=same_tokens, a=at(30), b=at(10)); assert c.tokens >= d.tokens"
    result = run_marked(project, 1.3, both)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["2 pass, 1 fail, 0 inconclusive *"])


def test_a_test_that_fails_anyway_measures_nothing_for_its_marker(project: pytest.Pytester) -> None:
    result = run_marked(project, 1.3, f"{FASTER}; raise KeyError('first')")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E *KeyError: 'first'"])


@pytest.mark.parametrize("body", ["pass", "grpo_arms(agree=same_tokens, a=at(3))"])
def test_a_marker_without_two_arms_is_a_mistake(project: pytest.Pytester, body: str) -> None:
    result = run_marked(project, 1.3, body)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stdout.fnmatch_lines(["test_marked.py:*: grpo: marker grpo_threshold('tokens_per_second'): it needs two *"])


def test_the_control_makes_timing_verdicts_inconclusive(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Sessions in this process forget the modules that they loaded, so the path of a module may name a forgotten one.
    gate_session = importlib.import_module("pytest_grpo.gate.gate_session")
    control = importlib.import_module("pytest_grpo.measuring.control")
    fired = control.Control("this machine is too noisy for timings (A/A control): a story")
    monkeypatch.setattr(gate_session, "run_control", lambda rng, limit: fired)
    result = run_gate(project, f"{FASTER}; assert a.tokens >= 2 * b.tokens", "-o", "grpo_control=true")
    result.assert_outcomes(xfailed=1)
    result.stdout.fnmatch_lines(["XFAIL *inconclusive: this machine is too noisy for timings (A/A control): a story"])
    run_gate(project, "grpo_gate.check('adapter_cache_hits', 2)", "-o", "grpo_control=true").assert_outcomes(failed=1)


@pytest.mark.usefixtures("few_plugins")
def test_progress_is_shown_on_a_terminal_and_taken_back(project: pytest.Pytester) -> None:
    controller, terminal = os.openpty()
    command = [sys.executable, "-m", "pytest", "--phase=4", "--color=no", "--benchmark-disable"]
    subprocess.run(command, cwd=project.path, stdin=subprocess.DEVNULL, stdout=terminal, check=False)
    output = os.read(controller, 100_000).decode()
    assert "test_suite.py [to pair 8 of at most 40]" in output
    assert "[to pair 12 of at most 40, 3x so far]" in output
    width = len("[to pair 12 of at most 40, 3x so far]")
    assert f"{' ' * width}{chr(8) * width}F" in output
    for descriptor in (controller, terminal):
        os.close(descriptor)
