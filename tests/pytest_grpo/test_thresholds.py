from __future__ import annotations

import math
from pathlib import Path

import pytest

from pytest_grpo.stats import RatioEstimate, estimate_ratio
from pytest_grpo.thresholds import Threshold, Verdict, format_number, judge, load_thresholds, override_thresholds

AT_LEAST = Threshold("speedup", 2, "at_least", 2.0, math.inf, "x")
AT_MOST = Threshold("latency", 6, "at_most", -math.inf, 2.0, "s")
WITHIN = Threshold("balance", 3, "within", 0.67, 1.5)
EQUALS = Threshold("calls", 3, "equals", 0.0, 0.0)
ALL = {threshold.name: threshold for threshold in (AT_LEAST, AT_MOST, WITHIN, EQUALS)}


@pytest.mark.parametrize(
    ("threshold", "good", "bad"),
    [(AT_LEAST, 2.0, 1.999), (AT_MOST, 2.0, 2.001), (WITHIN, 0.67, 1.501), (WITHIN, 1.5, 0.669), (EQUALS, 0, 1)],
)
def test_bounds_belong_to_what_passes(threshold: Threshold, good: float, bad: float) -> None:
    assert judge(threshold, good) is Verdict.PASS
    assert judge(threshold, bad) is Verdict.FAIL


def test_an_estimate_is_judged_by_its_median_and_needs_two_pairs() -> None:
    assert judge(AT_LEAST, estimate_ratio([1.0, 3.0, 3.0])) is Verdict.PASS
    assert judge(AT_LEAST, estimate_ratio([1.0, 1.0, 3.0])) is Verdict.FAIL
    assert judge(AT_LEAST, RatioEstimate(9.0, 9.0, 9.0, 1, 0.0)) is Verdict.INCONCLUSIVE


def test_thresholds_read_as_people_write_them() -> None:
    assert [str(threshold) for threshold in ALL.values()] == [">= 2 x", "<= 2 s", "0.67..1.5", "== 0"]
    assert [format_number(value) for value in (1.0, 1.23456, 123456.7, 0.0001234)] == [
        "1",
        "1.235",
        "123457",
        "0.0001234",
    ]


@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_the_repositorys_thresholds_cover_each_phase(profile: str, request: pytest.FixtureRequest) -> None:
    thresholds = load_thresholds(request.config.rootpath / "bench" / "thresholds.toml", profile)
    assert {threshold.phase for threshold in thresholds.values()} == set(range(7))
    assert thresholds["compact_tokens_per_second_ratio"].low == 1.30
    assert thresholds["tokenizer_calls"].kind == "equals"
    assert (thresholds["forward_over_backward"].low, thresholds["forward_over_backward"].high) == (0.67, 1.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cpu = ", "not a readable TOML file"),
        ("[gpu.phase1]", "no device profile 'cpu'"),
        ("[cpu.phase9]", r"\[cpu.phase9\]: allowed are tables phase0 to phase6"),
        ("[cpu]\nphase1 = 3", "allowed are tables"),
        ("[cpu.phase1]\na = 3", "3 is no table"),
        ("[cpu.phase1]\na = { at_leest = 3 }", "not understood; write one of at_least"),
        ("[cpu.phase1]\na = { at_least = 3, at_most = 4 }", "not understood"),
        ("[cpu.phase1]\na = { at_least = 3, unit = 4 }", "not understood"),
        ("[cpu.phase1]\na = { at_least = 'x' }", "at_least = 'x' is not numeric"),
        ("[cpu.phase1]\na = { equals = true }", "equals = True is not numeric"),
        ("[cpu.phase1]\na = { at_least = nan }", "not numeric"),
        ("[cpu.phase1]\na = { within = [2, 1] }", "within takes a low and a high"),
        ("[cpu.phase1]\na = { within = [2] }", "within takes a low and a high"),
        ("[cpu.phase1]\na = { within = 2 }", "not numeric"),
        ("[cpu.phase1]\na = {equals = 1}\n[cpu.phase2]\na = {equals = 1}", "names are unique"),
        ('[cpu.phase1]\n"a b" = {equals = 1}', "names are unique letters"),
    ],
)
def test_a_damaged_file_is_one_line_that_names_it(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "thresholds.toml"
    path.write_text(text)
    with pytest.raises(pytest.UsageError, match=message) as caught:
        load_thresholds(path, "cpu")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_overrides_replace_the_bound_and_keep_the_rest() -> None:
    changed = override_thresholds(ALL, ["speedup=1.5", "latency=3", "balance=0.5..2", "calls=1"])
    assert [str(threshold) for threshold in changed.values()] == [">= 1.5 x", "<= 3 s", "0.5..2", "== 1"]
    assert ALL["speedup"].low == 2.0


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("speedup", "write name=value"),
        ("=3", "write name=value"),
        ("sped=3", "no threshold 'sped'; allowed are balance, calls, latency, speedup"),
        ("speedup=fast", "'fast' is no number"),
        ("speedup=inf", "'inf' is no number"),
        ("speedup=1..2", "'1..2' is no number"),
        ("balance=1", "low and a high"),
        ("balance=2..1", "low and a high"),
        ("balance=a..b", "takes low..high"),
    ],
)
def test_bad_overrides_are_named(override: str, message: str) -> None:
    with pytest.raises(pytest.UsageError, match=message) as caught:
        override_thresholds(ALL, [override])
    assert f"--grpo-threshold {override!r}" in str(caught.value)
