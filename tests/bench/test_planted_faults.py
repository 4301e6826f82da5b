from __future__ import annotations

import math
import tomllib
from pathlib import Path

import pytest

from bench.faults import FAULTS, WRONG_ANSWERS, Fault
from bench.faults.runs import FaultRun, Finding, Log, Result, judge, run_phases
from bench.planted_faults import main
from pytest_grpo.settings.phases import PHASES
from pytest_grpo.types import Verdict

ROOT = Path(__file__).resolve().parents[2]
BY_NAME = {fault.name: fault for fault in FAULTS}
SLOW = BY_NAME["batch_size_one"]
WRONG = BY_NAME["padding_read_as_prompt"]


def finding(metric: str, verdict: Verdict = Verdict.FAIL, reason: str = "", num_pairs: int | None = 12) -> Finding:
    return Finding(
        metric=metric,
        phase=2,
        verdict=verdict,
        reason=reason,
        measured=1.0,
        low=0.9,
        high=1.1,
        num_pairs=num_pairs,
        threshold=">= 2",
    )


def make_run(*findings: Finding, fault: str | None = SLOW.name, phases: str = "2", exit_code: int = 1) -> FaultRun:
    return FaultRun(
        fault=fault, phases=phases, number=0, exit_code=exit_code, duration_s=1.0, findings=findings, tail="the end"
    )


def save(path: Path, *runs: FaultRun) -> None:
    log = Log(path)
    for run in runs:
        log.add(run)


def test_each_fault_has_a_name_of_its_own_and_a_description() -> None:
    assert len(BY_NAME) == len(FAULTS)
    assert all(fault.description.endswith(".") for fault in FAULTS)


@pytest.mark.parametrize("phase", [phase.number for phase in PHASES])
def test_each_phase_has_its_designed_fault_and_five_more(phase: int) -> None:
    assert sum(fault.phase == phase for fault in FAULTS) >= 6


@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_every_metric_of_a_phase_has_a_fault_that_spoils_it(profile: str) -> None:
    tables = tomllib.loads((ROOT / "bench" / "thresholds.toml").read_text(encoding="utf-8"))[profile]
    spoilt = {(f"phase{fault.phase}", metric) for fault in FAULTS for metric in fault.metrics}
    # The default suite compares with no other system, trains an adapter, and has no variants.
    others = ("versus_", "forward_over_backward_full", "variant_")
    metrics = {(phase, metric) for phase, metrics in tables.items() for metric in metrics}
    assert spoilt == {(phase, metric) for phase, metric in metrics if not metric.startswith(others)}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_finds_what_it_patches(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    fault.plant(monkeypatch)  # raises when the product has moved on


def test_an_unknown_fault_is_a_usage_error_of_one_line(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_subprocess("-p", "bench.faults.plugin", "--plant", "nonsense")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    errors = [line for line in result.errlines if line]
    assert len(errors) == 1
    assert errors[0].startswith("ERROR: --plant 'nonsense': no such fault; choose one of activations_")


@pytest.mark.slow
def test_a_planted_fault_turns_its_phase_red_and_nothing_does_without_it() -> None:
    fault = BY_NAME["gpu_stats_without_memory"]
    only_its_test = ("-k", "device_statistics")
    planted = run_phases(fault, "1", options=only_its_test)
    clean = run_phases(None, "1", options=only_its_test)
    assert judge(fault, planted) is Result.OK
    assert planted.exit_code == 1
    assert [(found.metric, found.verdict) for found in clean.findings] == [("gpu_stats_events", Verdict.PASS)]
    assert clean.exit_code == 0


@pytest.mark.slow
def test_a_run_without_a_verdict_keeps_the_end_of_its_output() -> None:
    run = run_phases(SLOW, "2", options=("--grpo-pairs", "none"))
    assert judge(SLOW, run) is Result.NO_VERDICT
    assert run.exit_code == pytest.ExitCode.USAGE_ERROR
    assert "--grpo-pairs 'none'" in run.tail


@pytest.mark.parametrize(
    ("findings", "expected"),
    [
        ([finding("batched_speedup")], Result.OK),
        ([finding("batched_speedup"), finding("warm_start_speedup", Verdict.INCONCLUSIVE)], Result.OK),
        ([finding("batched_speedup"), finding("adapter_cache_hits", num_pairs=None)], Result.OK),
        ([finding("batched_speedup"), finding("warm_start_speedup")], Result.OTHERS_RED),
        ([finding("batched_speedup", Verdict.PASS)], Result.MISSED),
        ([finding("batched_speedup", Verdict.PASS), finding("warm_start_speedup")], Result.MISSED),
        ([finding("batched_speedup", Verdict.INCONCLUSIVE)], Result.INCONCLUSIVE),
        ([finding("warm_start_speedup")], Result.NO_VERDICT),
        ([], Result.NO_VERDICT),
    ],
)
def test_only_the_right_metric_gives_a_fault_away(findings: list[Finding], expected: Result) -> None:
    assert judge(SLOW, make_run(*findings)) is expected


def test_a_wrong_answer_must_be_named_as_the_reason() -> None:
    named = make_run(finding("batched_speedup", reason=f"{WRONG_ANSWERS}: answer 0 of 12"))
    slow = make_run(finding("batched_speedup", reason="its whole interval lies below the threshold"))
    assert judge(WRONG, named) is Result.OK
    assert judge(WRONG, slow) is Result.MISSED


@pytest.mark.parametrize(
    ("reason", "expected"),
    [(f"{WRONG_ANSWERS}: arms differ", Result.OK), ("its whole interval lies below the threshold", Result.OTHERS_RED)],
)
def test_wrong_answers_give_away_a_fault_that_exact_gates_see(reason: str, expected: Result) -> None:
    exact = next(fault for fault in FAULTS if fault.metrics == ("stale_answers",))
    run = make_run(finding("stale_answers", num_pairs=None), finding("batched_speedup", reason=reason))
    assert judge(exact, run) is expected


def test_a_log_gives_back_what_was_measured(tmp_path: Path) -> None:
    path = tmp_path / "runs.json"
    nothing = finding("batched_speedup", Verdict.INCONCLUSIVE).model_copy(update={"measured": math.nan})
    save(path, make_run(finding("batched_speedup")), make_run(nothing, phases="all"))
    log = Log.open(path, fresh=False)
    assert log.get(SLOW.name, "2", 0) == make_run(finding("batched_speedup"))
    restored = log.get(SLOW.name, "all", 0)
    assert restored is not None
    assert math.isnan(restored.findings[0].measured or 0)
    assert log.get(SLOW.name, "2", 1) is None


def test_runs_of_the_log_are_not_made_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, page = tmp_path / "runs.json", tmp_path / "table.md"
    save(path, make_run(finding("batched_speedup", reason="below | short of it")))
    assert main(["--fault", SLOW.name, "--json", str(path), "--markdown", str(page)]) == 0
    table = capsys.readouterr().out
    what = "The engine decodes one sequence at a time, whatever it is told."
    assert f"| 2 | `batch_size_one`: {what} | `batched_speedup` 1 [0.9, 1.1] for >= 2 | ok |" in table
    assert "1 of 1 faults were seen." in table
    assert page.read_text(encoding="utf-8") == table


def test_a_run_without_its_verdict_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "runs.json"
    save(path, make_run(finding("batched_speedup", Verdict.PASS, reason="within | so to speak")))
    assert main(["--fault", SLOW.name, "--json", str(path)]) == 1
    assert "| missed: within \\| so to speak |" in capsys.readouterr().out


def test_a_missed_fault_and_a_red_clean_run_fail_the_command(tmp_path: Path) -> None:
    path = tmp_path / "runs.json"
    save(
        path,
        make_run(finding("batched_speedup", Verdict.PASS), exit_code=0),
        make_run(finding("batched_speedup"), fault=None, phases="all"),
    )
    assert main(["--fault", SLOW.name, "--json", str(path)]) == 1
    assert main(["--clean", "1", "--json", str(path)]) == 1


def test_clean_runs_are_counted_by_gate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "runs.json"
    unsure = finding("warm_start_speedup", Verdict.INCONCLUSIVE, reason="the budget of 45 s ended")
    sure = finding("batched_speedup", Verdict.PASS)
    clean = make_run(unsure, sure, fault=None, phases="all", exit_code=0)
    save(path, clean, clean.model_copy(update={"number": 1, "findings": (unsure,)}))
    assert main(["--clean", "2", "--json", str(path)]) == 0
    table = capsys.readouterr().out
    assert "| 2 | `batched_speedup` | >= 2 | 1 | 0 | 0 | 1 | - |" in table
    assert "| 2 | `warm_start_speedup` | >= 2 | 0 | 2 | 0 | 0 | 2 x the budget of N s ended |" in table
    assert "0 of 2 clean runs had a red gate; 0 did not end well." in table


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--fault", "nonsense"], "--fault 'nonsense': no such fault"),
        (["--phase", "2,9"], "--phase '2,9': allowed are 0, 1, 2, 3, 4, 5, 6"),
    ],
)
def test_mistakes_on_the_command_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(message)
    assert error.count("\n") == 1


def test_a_damaged_log_is_refused_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "runs.json"
    path.write_text('{"runs": [{"fault": 3}]}', encoding="utf-8")
    assert main(["--fault", SLOW.name, "--json", str(path)]) == 2
    assert "not a log of planted faults" in capsys.readouterr().err
    assert path.read_text(encoding="utf-8") == '{"runs": [{"fault": 3}]}'
