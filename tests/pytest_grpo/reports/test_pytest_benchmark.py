from __future__ import annotations

import inspect
import json
import sys
from dataclasses import fields, replace
from importlib.metadata import version
from typing import Any

import pytest
from pytest_benchmark.session import BenchmarkSession
from pytest_benchmark.stats import Metadata, Stats

from pytest_grpo.reports.pytest_benchmark import Origin, own_name, store, timings
from pytest_grpo.types import Row

RATE = Row(
    *("speed", 2, "at_least", 2.0, None, ">= 2 x", "bench/thresholds.toml", "x", "pass", "", 20.0, "cpu, 2 cores"),
    **{"low": 10.0, "high": 30.0, "confidence": 0.5, "num_pairs": 2, "ratios": [10.0, 30.0]},
    quantity="tokens_per_second",
    arms={
        "fast": {"seconds": [0.1, 0.1], "tokens": [300.0, 100.0]},
        "slow": {"seconds": [0.5, 0.5], "tokens": [50.0, 50.0]},
    },
    conditions={"cores_of_others": 0.25},
)
TIME = replace(
    RATE,
    **{"metric": "forward", "quantity": "forward_ms", "verdict": "fail", "reason": "too slow"},
    arms={"one": {"seconds": [0.5, 0.5], "forward_ms": [20.0, 40.0]}},
)
COUNT = Row(*("calls", 3, "equals", 0, 0, "== 0", "a file", "", "fail", "4 is not 0", 4, "cpu, 2 cores"))

SUITE = """
import json

ROWS = json.loads({rows!r})

def test_two(request):
    request.node.user_properties += [tuple(row) for row in ROWS]
"""
COMPARE = "import sys; from pytest_benchmark.cli import main; sys.exit(main())"
LIBRARY = f"pytest-benchmark {version('pytest-benchmark')} has changed:"


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    """A project with one measured test, and without pytest-benchmark's slow look at the machine."""
    write_suite(pytester, RATE, TIME, COUNT)
    pytester.makeini("[pytest]\n")
    pytester.makeconftest("def pytest_benchmark_generate_machine_info(): return {'node': 'here', 'cpu': {}}")
    return pytester


def write_suite(pytester: pytest.Pytester, *rows: Row) -> None:
    text = json.dumps([row.as_property() for row in rows])
    pytester.makepyfile(test_measured=SUITE.format(rows=text))


def saved_json(project: pytest.Pytester, *arguments: str) -> dict[str, Any]:
    project.runpytest("--benchmark-json=out.json", *arguments).assert_outcomes(passed=1)
    return json.loads(project.path.joinpath("out.json").read_text())


def test_operations_are_the_compared_rate_and_a_time_is_itself(project: pytest.Pytester) -> None:
    fast, slow, forward = saved_json(project)["benchmarks"]
    assert fast["name"] == "test_two[speed:fast]"
    assert fast["fullname"] == "test_measured.py::test_two[speed:fast]"
    assert fast["group"] == slow["group"] == "speed"
    assert fast["stats"]["iterations"] == 200
    assert fast["stats"]["data"] == pytest.approx([0.1 / 300, 0.1 / 100])
    assert fast["stats"]["ops"] == pytest.approx(2 / (0.1 / 300 + 0.1 / 100))
    assert slow["stats"]["ops"] == pytest.approx(100)
    assert forward["stats"]["iterations"] == 1
    assert forward["stats"]["data"] == pytest.approx([0.02, 0.04])


def test_extra_info_holds_the_verdict(project: pytest.Pytester) -> None:
    document = saved_json(project)
    *_, forward = document["benchmarks"]
    info = forward["extra_info"]
    assert isinstance(info.pop("fingerprint"), dict)
    assert info == {
        "verdict": "fail",
        "reason": "too slow",
        "measured": 20.0,
        "interval": [10.0, 30.0],
        "confidence": 0.5,
        "pairs": 2,
        "threshold": ">= 2 x",
        "source": "bench/thresholds.toml",
        "device": "cpu, 2 cores",
        "system": "",
        "conditions": {"cores_of_others": 0.25},
        "commit": document["commit_info"]["id"],
    }


def test_json_holds_every_verdict_also_those_without_arms(project: pytest.Pytester) -> None:
    verdicts = saved_json(project)["grpo_verdicts"]
    assert [(entry["test"], entry["metric"], entry["verdict"]) for entry in verdicts] == [
        ("test_measured.py::test_two", "speed", "pass"),
        ("test_measured.py::test_two", "forward", "fail"),
        ("test_measured.py::test_two", "calls", "fail"),
    ]


@pytest.mark.parametrize(
    ("quantity", "values", "expected"),
    [
        ("seconds", {"seconds": [0.5, 0.25]}, (1, [0.5, 0.25])),
        ("load_ms", {"seconds": [0.5, 0.25], "load_ms": [2.0, 4.0]}, (1, [0.002, 0.004])),
        ("bytes", {"seconds": [0.5, 0.25], "bytes": [10.0, 10.0]}, (1, [0.5, 0.25])),
        (None, {"seconds": [0.5, 0.25], "load_ms": [2.0, 4.0]}, (1, [0.5, 0.25])),
        ("load_ms", {"seconds": [0.5, 0.25]}, (1, [0.5, 0.25])),
        ("tokens_per_second", {"seconds": [0.5, 0.25], "tokens": [10.0, 20.0]}, (15, [0.05, 0.0125])),
        ("tokens_per_second", {"seconds": [0.5, 0.5], "tokens_per_second": [20.0, 40.0]}, (15, [0.05, 0.025])),
        ("tokens_per_second", {"seconds": [0.5, 0.25]}, (1, [0.5, 0.25])),
        ("tokens_per_second", {"seconds": [0.5, 0.5], "tokens": [0.0, 10.0]}, (5, [0.05])),
        ("tokens_per_second", {"seconds": [0.5], "tokens": [0.25]}, (1, [2.0])),
    ],
)
def test_timings(quantity: str | None, values: dict[str, list[float]], expected: tuple[int, list[float]]) -> None:
    iterations, samples = timings(replace(RATE, quantity=quantity, arms={"one": values}), "one")
    assert (iterations, samples) == (expected[0], pytest.approx(expected[1]))


def test_the_fingerprint_is_stored_and_empty_arms_are_not(pytester: pytest.Pytester) -> None:
    config = pytester.parseconfigure("--benchmark-json=out.json")
    nothing = {"none": {"seconds": [0.5], "tokens": [0.0]}}
    store(config, [("a.py::test_a", RATE), ("a.py::test_b", replace(RATE, arms=nothing))], {"torch": "2.13.0"})
    session = config.pluginmanager.get_plugin("pytest-benchmark")
    assert isinstance(session, BenchmarkSession)
    assert [entry.extra_info["fingerprint"] for entry in session.benchmarks] == [{"torch": "2.13.0"}] * 2


@pytest.mark.parametrize("arguments", [["--benchmark-disable"], ["--benchmark-skip"]])
def test_a_disabled_pytest_benchmark_gets_nothing(project: pytest.Pytester, arguments: list[str]) -> None:
    result = project.runpytest("-W", "ignore", "--benchmark-json=out.json", *arguments)
    result.assert_outcomes(passed=1)
    assert not project.path.joinpath("out.json").exists()


def test_without_pytest_benchmark_the_verdicts_are_shown(project: pytest.Pytester) -> None:
    project.makeconftest("")
    result = project.runpytest("-p", "no:benchmark")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["1 pass, 2 fail, 0 inconclusive on cpu, 2 cores"])


def test_pytest_benchmark_need_not_be_installed(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    project.makeconftest("")
    script = (
        "import sys, pytest; sys.modules['pytest_benchmark'] = None;"  # importing it raises ImportError
        "sys.exit(pytest.main(['-p', 'pytest_grpo.plugin']))"
    )
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    result = project.run(sys.executable, "-c", script)
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["1 pass, 2 fail, 0 inconclusive on cpu, 2 cores"])


def test_counts_alone_make_no_entries(project: pytest.Pytester) -> None:
    write_suite(project, COUNT)
    project.runpytest("-W", "ignore", "--benchmark-json=out.json").assert_outcomes(passed=1)
    assert not project.path.joinpath("out.json").exists()


def test_saved_runs_can_be_compared(project: pytest.Pytester) -> None:
    write_suite(project, RATE)
    project.runpytest("--benchmark-save=before")
    result = project.runpytest("--benchmark-save=after", "--benchmark-compare=0001")
    result.stdout.fnmatch_lines(["test_two?speed:slow? (0001_before) *", "*slow? (NOW) *"])
    compared = project.run(sys.executable, "-c", COMPARE, "compare", "--sort=name", "--columns=ops,rounds")
    assert compared.ret == 0
    compared.stdout.re_match_lines(
        [
            rf"test_two\[speed:{arm}\] \({run}\) .* 2 *$"
            for arm, run in [("fast", "0001_before"), ("fast", "0002_after"), ("slow", "0001_before")]
        ]
    )


# What benchmark_table.py takes for granted of pytest-benchmark. Each message names what is no longer so.


def test_contract_session(pytester: pytest.Pytester) -> None:
    session = pytester.parseconfigure().pluginmanager.get_plugin("pytest-benchmark")
    assert isinstance(session, BenchmarkSession), f"{LIBRARY} no BenchmarkSession is registered as 'pytest-benchmark'"
    for name, kind in {"benchmarks": list, "disabled": bool, "skip": bool}.items():
        assert isinstance(vars(session).get(name), kind), f"{LIBRARY} BenchmarkSession.{name} is no {kind.__name__}"


def test_contract_metadata_takes_what_we_give() -> None:
    taken = list(inspect.signature(Metadata).parameters)
    assert taken == ["fixture", "iterations", "options"], f"{LIBRARY} Metadata takes {taken}"


def test_contract_metadata_reads_no_more_of_a_fixture_than_we_have() -> None:
    read: set[str] = set()

    class Fixture:
        cprofile_stats = None

        def __getattr__(self, name: str) -> str:
            read.add(name)
            return ""

    entry = Metadata(Fixture(), iterations=1, options={})
    entry.stats.update(1.0)
    assert entry, f"{LIBRARY} Metadata with samples is false"
    entry.as_dict()
    assert entry.has_error is not None
    missing = read - {field.name for field in fields(Origin)}
    assert not missing, f"{LIBRARY} Metadata reads {', '.join(sorted(missing))} of its fixture, which Origin lacks"


def test_contract_stats() -> None:
    stats = Stats()
    stats.update(0.5)
    assert stats.data == [0.5], f"{LIBRARY} Stats.update does not append to Stats.data"
    assert stats.ops == 2.0, f"{LIBRARY} Stats.ops is not iterations per second"


def test_contract_hooks(pytester: pytest.Pytester) -> None:
    hook = pytester.parseconfigure().hook
    for name, argument in (("generate_commit_info", "config"), ("update_json", "output_json")):
        caller = getattr(hook, f"pytest_benchmark_{name}", None)
        assert caller is not None, f"{LIBRARY} the hook pytest_benchmark_{name} is gone"
        assert argument in caller.spec.argnames, f"{LIBRARY} the hook pytest_benchmark_{name} has no {argument}"


def test_a_name_keeps_its_parameters() -> None:
    assert own_name("tests/test_a.py::TestB::test_c[d::e]") == "test_c[d::e]"
    assert own_name("tests/test_a.py::test_c") == "test_c"
