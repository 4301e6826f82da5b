from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest

from bench import judge_quality
from bench.judge_quality import main
from bench.judge_study import simulated
from bench.judge_study.simulated import (
    QUIET,
    TRUTHS,
    Noise,
    Truth,
    study_alarms,
    study_difference,
    study_stalls,
    study_truth,
)

OPTIONS = argparse.Namespace(quiet=20, changed=10, seed=0)


def test_truths_change_over_the_run_or_in_the_middle() -> None:
    assert np.exp(Truth("drift", 0.1).logs(3)).tolist() == pytest.approx([1, 1.1**0.5, 1.1])
    assert np.exp(Truth("shift", 0.1, is_shift=True).logs(4)).tolist() == pytest.approx([1, 1, 1.1, 1.1])


def test_steps_spread_and_remember_as_told() -> None:
    rng = np.random.default_rng(0)
    logs = Noise("", 0.5).logs(rng, 500, 60)
    assert logs.std() == pytest.approx(0.05, rel=0.02)
    assert np.corrcoef(logs[:, :-1].ravel(), logs[:, 1:].ravel())[0, 1] == pytest.approx(0.5, abs=0.02)
    slow = Noise("", 0.0, 0.5).logs(rng, 500, 60)
    assert np.corrcoef(slow[:, :-20].ravel(), slow[:, 20:].ravel())[0, 1] > 0.2


def test_what_is_large_is_found_and_a_quiet_run_is_not() -> None:
    assert study_truth(OPTIONS, 600, TRUTHS[2]).share == 1.0
    assert study_truth(OPTIONS, 600, TRUTHS[5]).share == 1.0
    assert study_alarms(OPTIONS, 60, QUIET[0]).changes.num_hits <= 1
    assert study_stalls(OPTIONS, 6.0, 0.05).share == 1.0
    assert study_difference(OPTIONS, 0.0, 0.0, 0.3).share == 1.0
    assert study_difference(OPTIONS, 0.0, 0.05, 0.0).num_hits == 0


def test_the_tables_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(judge_quality, "NUMS_OF_STEPS", (60,))
    files = ["--json", str(tmp_path / "rates.json"), "--markdown", str(tmp_path / "tables.md")]
    assert main(["--quiet", "1", "--changed", "1", "--processes", "1", *files]) == 0
    tables = (tmp_path / "tables.md").read_text()
    assert capsys.readouterr().out == tables
    assert tables.count("| noise | 60 steps |") == 3
    assert tables.count("| drift of ") == 3
    rates = json.loads((tmp_path / "rates.json").read_text())
    assert len(rates) == 3 * len(QUIET) + len(TRUTHS) + len(simulated.STALLS) + 16
    assert rates["power, 60 steps, shift of 10 %"]["n"] == 1


@pytest.mark.parametrize("arguments", [["--quiet", "0"], ["--seed", "x"], ["--markdown", "none/tables.md"]])
def test_a_mistake_is_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert capsys.readouterr().err.count("\n") == 1
