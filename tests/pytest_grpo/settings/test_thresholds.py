from __future__ import annotations

import math
from pathlib import Path

import pytest

from pytest_grpo.settings.thresholds import Threshold, format_number, load_thresholds, override_thresholds

AT_LEAST = Threshold("speedup", 2, "at_least", 2.0, math.inf, "x")
AT_MOST = Threshold("latency", 6, "at_most", -math.inf, 2.0, "s")
WITHIN = Threshold("balance", 3, "within", 0.67, 1.5)
EQUALS = Threshold("calls", 3, "equals", 0.0, 0.0)
ALL = {threshold.name: threshold for threshold in (AT_LEAST, AT_MOST, WITHIN, EQUALS)}


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
        ("[cpu.phase1]\na = 3", "3 is not a table"),
        ("[cpu.phase1]\na = { at_leest = 3 }", "is not a threshold; write one of at_least"),
        ("[cpu.phase1]\na = { at_least = 3, at_most = 4 }", "is not a threshold"),
        ("[cpu.phase1]\na = { at_least = 3, unit = 4 }", "is not a threshold"),
        ("[cpu.phase1]\na = { at_least = 'x' }", "at_least = 'x' is not numeric"),
        ("[cpu.phase1]\na = { equals = true }", "equals = True is not numeric"),
        ("[cpu.phase1]\na = { at_least = nan }", "not numeric"),
        ("[cpu.phase1]\na = { within = [2, 1] }", "within takes two numbers"),
        ("[cpu.phase1]\na = { within = [2] }", "within takes two numbers"),
        ("[cpu.phase1]\na = { within = 2 }", "not numeric"),
        ("[cpu.phase1]\na = {equals = 1}\n[cpu.phase2]\na = {equals = 1}", "names are unique"),
        ('[cpu.phase1]\n"a b" = {equals = 1}', "names are unique, of letters"),
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
    changed = override_thresholds(ALL, ["speedup=1.5", "latency=3", "balance=0.5..2", "calls=1"], "--grpo-threshold")
    assert [str(threshold) for threshold in changed.values()] == [">= 1.5 x", "<= 3 s", "0.5..2", "== 1"]
    assert {threshold.source for threshold in changed.values()} == {"--grpo-threshold"}
    assert ALL["speedup"].low == 2.0


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("speedup", "write name=value"),
        ("=3", "write name=value"),
        ("sped=3", "no threshold 'sped'; allowed are balance, calls, latency, speedup"),
        ("speedup=fast", "'fast' is not a number"),
        ("speedup=inf", "'inf' is not a number"),
        ("speedup=1..2", "'1..2' is not a number"),
        ("balance=1", "two numbers"),
        ("balance=2..1", "two numbers"),
        ("balance=a..b", "takes low..high"),
    ],
)
def test_bad_overrides_are_named(override: str, message: str) -> None:
    with pytest.raises(pytest.UsageError, match=message) as caught:
        override_thresholds(ALL, [override], "ini grpo_threshold")
    assert f"ini grpo_threshold {override!r}" in str(caught.value)


def test_an_override_where_there_is_no_threshold_says_so() -> None:
    with pytest.raises(pytest.UsageError, match="no threshold 'x'; no file and no marker here sets one"):
        override_thresholds({}, ["x=1"], "--grpo-threshold")


STRENGTHS = """
import pytest

@pytest.mark.grpo_threshold("tokens_per_second", at_least=1.1)
@pytest.mark.grpo_threshold("seconds", at_most=9)
def test_strength(grpo_threshold):
    print("speed", grpo_threshold("tokens_per_second"), grpo_threshold("tokens_per_second").source)
    print("time", grpo_threshold("seconds"), grpo_threshold("seconds").source)
    pytest.skip("nothing to measure")
"""
FILE = "[cpu.phase2]\ntokens_per_second = { at_least = 1.2 }\n"


def test_each_source_is_stronger_than_the_one_before(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(STRENGTHS)
    path = pytester.mkdir("bench") / "thresholds.toml"

    def seen(*arguments: str) -> list[str]:
        lines = pytester.runpytest("-s", *arguments).outlines
        return [line.removeprefix("speed ") for line in lines if "speed " in line]

    assert seen()[0].endswith(">= 1.1 marker grpo_threshold")
    path.write_text(FILE)
    assert seen()[0].endswith(">= 1.2 thresholds.toml [cpu.phase2]")
    pytester.makeini("[pytest]\ngrpo_threshold = tokens_per_second=1.3\n")
    assert seen()[0].endswith(">= 1.3 ini grpo_threshold")
    monkeypatch.setenv("GRPO_THRESHOLD", "tokens_per_second=1.4,seconds=8")
    assert seen()[0].endswith(">= 1.4 environment GRPO_THRESHOLD")
    assert seen("--grpo-threshold=tokens_per_second=1.5")[0].endswith(">= 1.5 --grpo-threshold")


def test_the_effective_table_is_shown_with_its_sources(project: pytest.Pytester) -> None:
    result = project.runpytest("--grpo-show-thresholds", "--grpo-threshold", "batched_speedup=3")
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            "phase  threshold * from",
            "2      batched_speedup * >= 3 x * --grpo-threshold",
            "3      forward_over_backward * 0.67..1.5 * thresholds.toml [[]cpu.phase3]",
        ]
    )


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        ("grpo_threshold", "it takes a quantity and a bound"),
        ("grpo_threshold()", "it takes a quantity and a bound"),
        ("grpo_threshold(3, at_least=1)", "it takes a quantity and a bound"),
        ("grpo_threshold('a b', at_least=1)", "it takes a quantity and a bound"),
        ("grpo_threshold('a', 'b', at_least=1)", "it takes a quantity and a bound"),
        ("grpo_threshold('a')", "write one of at_least"),
        ("grpo_threshold('a', at_leest=1)", "write one of at_least"),
        ("grpo_threshold('a', at_least=1, at_most=2)", "write one of at_least"),
        ("grpo_threshold('a', at_least='x')", "not numeric"),
        ("grpo_threshold('a', within=(2, 1))", "low first"),
        ("grpo_threshold('a', equals=1)", "equals is for counts"),
        (
            "grpo_threshold('a', at_least=1)\n@pytest.mark.grpo_threshold('a', at_most=2)",
            "a second bound for a; keep one",
        ),
    ],
)
def test_a_wrong_marker_ends_the_collection_with_one_line(pytester: pytest.Pytester, marker: str, message: str) -> None:
    pytester.makepyfile(test_marked=f"import pytest\n@pytest.mark.{marker}\ndef test_marked(grpo_arms): pass")
    result = pytester.runpytest("--co")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    (line,) = [line for line in result.errlines if line.strip()]
    assert line.startswith("ERROR: test_marked.py::test_marked: marker grpo_threshold")
    assert message in line


def test_a_project_without_thresholds_has_those_of_the_package(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest("--grpo-show-thresholds", "--grpo-threshold", "batched_speedup=7")
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            "phase  threshold * from",
            "2      adapter_cache_hits * == 1 * pytest_grpo.bench [[]cpu.phase2]",
            "2      batched_speedup * >= 7 * --grpo-threshold",
        ]
    )


def test_what_is_shown_names_overrides_that_change_nothing_here(project: pytest.Pytester) -> None:
    result = project.runpytest("--grpo-show-thresholds", "--grpo-threshold", "nope=1")
    result.stdout.fnmatch_lines(
        ["--grpo-threshold 'nope=1': no threshold of that name here; it counts only where a marker sets one"]
    )


def test_thresholds_are_shown_for_no_file_that_is_not_there(project: pytest.Pytester) -> None:
    result = project.runpytest("--grpo-show-thresholds", "nope")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --grpo-show-thresholds: 'nope': no such file; *"])
