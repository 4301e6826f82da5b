from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from grpo_core.home import Home
from pytest_grpo.baseline.compare import change_table, main
from pytest_grpo.baseline.files import read_sessions, save_baseline
from pytest_grpo.baseline.fingerprint import Fingerprint, take_fingerprint
from pytest_grpo.baseline.regressions import compare_rows
from pytest_grpo.settings.option_values import parse_tolerance
from pytest_grpo.types import Row

NODEID = "bench/test_phase2_rollout.py::test_batched"


def row(ratio: float, metric: str = "batched_speedup") -> Row:
    """Fast takes 0.1 s for ``100 * ratio`` tokens, slow for 100."""
    scatter = [1 + 0.001 * pair for pair in range(10)]
    return Row(
        metric=metric,
        phase=2,
        kind="at_least",
        bound_low=2.0,
        bound_high=None,
        threshold=">= 2",
        source="file",
        unit="",
        verdict="pass",
        reason="",
        measured=ratio,
        device="cpu",
        num_pairs=10,
        ratios=[ratio * factor for factor in scatter],
        quantity="tokens_per_second",
        arms={
            "fast": {"seconds": [0.1] * 10, "tokens": [100.0 * ratio] * 10},
            "slow": {"seconds": [0.1] * 10, "tokens": [100.0] * 10},
        },
    )


@pytest.fixture
def fingerprint(tmp_path: Path) -> Fingerprint:
    return replace(take_fingerprint(tmp_path, {"batched_speedup": ">= 2"}), commit="0123456789abcdef")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fingerprint: Fingerprint) -> Home:
    """With the baselines before (of one commit, as five more sessions that show how little they spread), same, slower
    and faster (of another)."""
    monkeypatch.setenv("GRPO_HOME", str(tmp_path / "home"))
    home = Home.from_environment()
    for number, ratio in enumerate((2.99, 3.0, 3.01, 2.995, 3.005)):
        save_baseline(home, f"again{number}", fingerprint, [(NODEID, row(ratio))])
    save_baseline(home, "before", fingerprint, [(NODEID, row(3.0))])
    later = replace(fingerprint, commit="fedcba9876543210")
    for name, ratio in (("same", 3.001), ("slower", 2.5), ("faster", 9.0)):
        save_baseline(home, name, later, [(NODEID, row(ratio))])
    return home


@pytest.mark.parametrize(
    ("arguments", "exit_code", "summary"),
    [
        (["before", "same"], 0, "1 no regression"),
        (["before", "faster"], 0, "1 no regression"),
        (["before", "slower"], 1, "1 regression"),
        (["before", "slower", "--tolerance", "0.3"], 0, "1 no regression"),
    ],
)
def test_the_exit_code_says_whether_a_gate_lost(
    home: Home, capsys: pytest.CaptureFixture[str], arguments: list[str], exit_code: int, summary: str
) -> None:
    assert main(arguments) == exit_code
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-1] == summary
    assert printed.err == ""


def test_the_table_shows_the_interval_the_pairs_and_the_absolute_numbers(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["before", str(home.data / "baselines" / "slower.json")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("before  before  20")
    assert lines[0].endswith("0123456789ab")
    header, line = lines[3:5]
    assert header.split() == ["test", "metric", "before", "now", "change", "interval", "pairs", "verdict"]
    assert line.startswith("test_phase2_rollout.py::test_batched  batched_speedup  3       2.5  -16.7 %  [-17.")
    assert line.endswith("]  10/10  regression")
    assert "  batched_speedup: fast 3000 -> 2500, slow 1000 -> 1000 tokens_per_second" in lines


def test_gates_of_one_side_and_other_systems_are_in_the_table() -> None:
    new, trl = row(3.0, "new"), replace(row(3.0), system="trl")
    others = [[(NODEID, replace(row(ratio), system="trl"))] for ratio in (2.99, 3.0, 3.01, 3.0)]
    lines = change_table(compare_rows([(NODEID, new), (NODEID, trl)], [(NODEID, trl)], others=others))
    assert lines[1].split()[1:] == ["new", "-", "3", "-", "-", "-", "only", "now"]
    assert "batched_speedup (trl)" in lines[2]
    assert lines[-1] == "1 no regression, 1 only now"


def test_one_stored_session_says_that_the_spread_is_assumed(
    home: Home, capsys: pytest.CaptureFixture[str], fingerprint: Fingerprint
) -> None:
    save_baseline(home, "alone", replace(fingerprint, commit="abcdef"), [(NODEID, row(3.0))])
    assert main(["alone", "slower"]) == 0
    *_, note, _, summary = capsys.readouterr().out.splitlines()
    assert note == (
        "1 stored session does not show how far sessions spread: 5 % is assumed; store 4 more of that commit with "
        "--grpo-save"
    )
    assert summary == "1 undecided"


def test_sessions_of_changed_files_or_another_commit_show_no_spread(home: Home, fingerprint: Fingerprint) -> None:
    assert [session.name for session in read_sessions(home, "before")] == ["before", *(f"again{n}" for n in range(5))]
    changed = replace(fingerprint, dirty=True)
    for name in ("changed", "changed-too"):
        save_baseline(home, name, changed, [(NODEID, row(3.0))])
    save_baseline(home, "elsewhere", replace(fingerprint, torch="0.1"), [(NODEID, row(3.0))])
    assert [session.name for session in read_sessions(home, "changed")] == ["changed"]
    assert len(read_sessions(home, "before")) == 6
    assert change_table([])[-1] == "no gates"


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that the usage error prints."""
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    return line.removeprefix("grpo: error: ")


def test_other_machines_are_refused_unless_allowed(
    home: Home, capsys: pytest.CaptureFixture[str], fingerprint: Fingerprint
) -> None:
    other = replace(fingerprint, torch="0.1", thresholds={"batched_speedup": ">= 1"})
    save_baseline(home, "other", other, [(NODEID, replace(row(3.0), device="gpu H100"))])
    line = refusal(capsys, "before", "other")
    assert line.startswith(f"baselines 'before' and 'other': not comparable: torch: {fingerprint.torch} / 0.1; ")
    assert "threshold batched_speedup: >= 2 / >= 1; device of batched_speedup: cpu / gpu H100; measure" in line
    assert main(["before", "other", "--any-machine"]) == 0
    assert f"differs torch: {fingerprint.torch} / 0.1" in capsys.readouterr().out.splitlines()


def test_bad_input_is_one_line(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    (home.data / "baselines" / "damaged.json").write_text("{")
    assert "'missing': no such file, and" in refusal(capsys, "before", "missing")
    assert (
        refusal(capsys, "before", str(home.data))
        == f"baseline {str(home.data)!r}: it is a folder; name a baseline or its file"
    )
    assert "damaged.json: damaged: it is not JSON" in refusal(capsys, "damaged", "before")
    assert refusal(capsys, "before", "same", "--tolerance", "5 %") == (
        "tolerance '5 %': allowed are fractions from 0 to below 1; try 0.05"
    )


@pytest.mark.parametrize("text", ["-0.1", "1", "nan", "inf", "", "much"])
def test_a_tolerance_is_a_fraction(text: str) -> None:
    with pytest.raises(pytest.UsageError):
        parse_tolerance(text)
    assert parse_tolerance("0") == 0
    assert parse_tolerance("0.1") == 0.1


def test_it_runs_as_a_module(home: Home) -> None:
    command = [sys.executable, "-m", "pytest_grpo.baseline.compare", "before", "slower"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.endswith("\n1 regression\n")
