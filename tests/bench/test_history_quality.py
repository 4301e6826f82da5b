from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest

from bench import history_quality
from bench.history_quality import TRUTHS, Truth, as_series, main, noise, study_alarms, study_truth

OPTIONS = argparse.Namespace(quiet=20, changed=10, series=3, seed=0)


def test_truths_change_from_the_middle_on() -> None:
    step, drift = Truth("step", 0.1), Truth("drift", 0.01, is_drift=True)
    assert np.exp(step.logs(6)).tolist() == pytest.approx([1, 1, 1, 1.1, 1.1, 1.1])
    assert np.exp(drift.logs(6)).tolist() == pytest.approx([1, 1, 1, 1.01, 1.01**2, 1.01**3])


@pytest.mark.parametrize("memory", [0.0, 0.5])
def test_runs_spread_and_remember_as_told(memory: float) -> None:
    values = noise(np.random.default_rng(0), 2000, 50, 0.02, memory)
    assert values.std() == pytest.approx(0.02, rel=0.02)
    neighbours = np.corrcoef(values[:, :-1].ravel(), values[:, 1:].ravel())[0, 1]
    assert neighbours == pytest.approx(memory, abs=0.02)


def test_series_are_ratios_in_the_order_of_their_runs() -> None:
    (series,) = as_series(np.log(np.array([[1.0, 2.0, 4.0]])))
    assert series.values == pytest.approx((1.0, 2.0, 4.0))
    assert [run.commit for run in series.runs] == ["0", "1", "2"]


def test_a_large_step_is_found_in_its_place_and_a_quiet_history_is_not() -> None:
    found = study_truth(OPTIONS, 20, 0.01, TRUTHS[2])
    assert (found.power.share, found.median_off) == (1.0, 0.0)
    assert found.within_two is not None
    assert found.within_two.share == 1.0
    assert study_truth(OPTIONS, 20, 0.5, TRUTHS[0]).power.share < 0.5
    assert study_alarms(OPTIONS, 12, 0.02, 0.0).num_hits <= 2


def test_the_tables_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(history_quality, "NUMS_OF_RUNS", (12,))
    files = ["--json", str(tmp_path / "rates.json"), "--markdown", str(tmp_path / "tables.md")]
    assert main(["--quiet", "2", "--changed", "2", "--series", "2", "--processes", "1", *files]) == 0
    tables = (tmp_path / "tables.md").read_text()
    assert capsys.readouterr().out == tables
    assert "| runs | 2 % | 5 % | 2 %, memory 0.5 |" in tables
    assert tables.count("| step of ") == 6
    rates = json.loads((tmp_path / "rates.json").read_text())
    assert rates["power, 12 runs, spread 0.02, step of 10 %"]["n"] == 2


@pytest.mark.parametrize("arguments", [["--quiet", "0"], ["--seed", "x"], ["--markdown", "none/tables.md"]])
def test_a_mistake_is_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert capsys.readouterr().err.count("\n") == 1
