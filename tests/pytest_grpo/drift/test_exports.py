from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

from pytest_grpo.drift.changes import find_changes
from pytest_grpo.drift.exports import as_csv, as_json
from pytest_grpo.drift.series import Series, read_history
from tests.pytest_grpo.drift.stored_runs import Store, noisy, row

SLOWER = noisy([0.1] * 12 + [0.12] * 12)


def rows_of(series: tuple[Series, ...]) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(as_csv(series))))


def test_the_csv_has_a_line_per_run_and_a_column_per_gate(make_runs: Store) -> None:
    rows = rows_of(read_history(make_runs([0.1, 0.2])).series)
    assert rows == [
        {
            "time": f"2026-01-0{day + 1} 00:00:00 +0000",
            "commit": f"0{day}" * 20,
            "branch": "Abacus 9, 2 cores, Linux, x86_64",
            "run": f"run{day}",
            "step_speedup": ratio,
            "step_speedup:step/reference": over_reference,
            "step_speedup:plain/reference": "4.0",
        }
        for day, ratio, over_reference in ((0, "4.0", "1.0"), (1, "2.0", "2.0"))
    ]


def test_gaps_repeat_the_run_before_and_machines_are_branches(make_runs: Store) -> None:
    whole = make_runs([0.1, 0.2, 0.4], make_rows=lambda step_s: [row(step_s), row(step_s, "other")])
    gap = [whole[0], replace(whole[1], results=whole[1].results[:1]), whole[2]]
    elsewhere = make_runs([0.1], prefix="slow", cpu="Abacus 8")
    rows = rows_of(read_history([*gap, *elsewhere]).series)
    cells = {(row["run"], row["branch"][:8]): row["other:step/reference"] for row in rows}
    assert cells == {
        ("run0", "Abacus 9"): "1.0",
        ("run1", "Abacus 9"): "1.0",
        ("run2", "Abacus 9"): "4.0",
        ("slow0", "Abacus 8"): "nan",
    }


def test_gates_of_one_name_have_columns_of_their_own(make_runs: Store) -> None:
    run = make_runs([0.1])[0]
    two_tests = replace(run, results=[(test, replace(row(0.1), arms=None)) for test in ("a.py::test", "b.py::test")])
    (line,) = rows_of(read_history([two_tests]).series)
    assert list(line)[4:] == ["a.py::test step_speedup cpu", "b.py::test step_speedup cpu"]


def test_the_json_says_what_changed_and_where(make_runs: Store) -> None:
    changes = find_changes(read_history(make_runs(SLOWER)).series, 0.01)
    content = json.loads(as_json(changes, 0.01))
    assert content["max_p"] == 0.01
    first = content["changes"][0]
    assert first["metric"] == "step_speedup"
    assert first["outcome"] == "loss"
    assert first["last_before"]["commit"] == "11" * 20
    assert first["first_after"] == {
        "run": "run12",
        "created_at": "2026-01-13T00:00:00.000000+00:00",
        "commit": "12" * 20,
    }
    assert first["bisect"] == "grpo bisect 111111111111 121212121212 --phase 3"
    assert -0.2 < first["change"] < -0.1
