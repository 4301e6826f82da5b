from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.remote_overhead import figure, main, measure_first_report


@pytest.mark.slow
def test_a_short_run_loses_nothing_and_writes_every_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--tests", "3", "--rounds", "1", "--json", str(tmp_path / "overhead.json")]) == 0
    figures = json.loads((tmp_path / "overhead.json").read_text())
    assert set(figures) == {
        "replay_overhead_per_test_ms",
        "replay_overhead_per_session_ms",
        "first_report_visible_ms",
        "large_reports_lost",
    }
    assert figures["large_reports_lost"]["median"] == 0
    assert {"median", "low", "high", "n", "unit"} == set(figures["first_report_visible_ms"])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "large_reports_lost" in line]
    assert line == "| `large_reports_lost` | 0 [0, 0] | 1 | reports | ≤ 0 | yes |"


@pytest.mark.slow
@pytest.mark.usefixtures("modal_server")
def test_a_container_s_first_report_is_visible_at_once(tmp_path: Path) -> None:
    seen = measure_first_report(tmp_path / "first", "--modal", 1)["first_report_visible_ms"]
    assert (seen.n, seen.unit, seen.wanted) == (1, "ms", "≤ 1e+03")
    assert 0 < seen.median < 20_000


def test_a_figure_is_the_median_with_its_spread() -> None:
    spread = figure([3.0, 1.0, 2.0], "ms")
    assert (spread.median, spread.low, spread.high, spread.n) == (2.0, 1.0, 3.0, 3)


@pytest.mark.parametrize(("arguments", "allowed"), [(["--tests", "1"], "from 2"), (["--rounds", "0"], "from 1")])
def test_too_little_is_refused(arguments: list[str], allowed: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert f"allowed are whole numbers {allowed}" in capsys.readouterr().err
