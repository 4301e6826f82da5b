from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest

from grpo_core.errors import MissingPackageError
from grpo_core.telemetry import Telemetry
from grpo_core.telemetry.columns import COLUMNS, FIELDS
from grpo_core.telemetry.events import Value
from grpo_core.telemetry.jsonl import JsonlSink
from grpo_core.telemetry.panels import query as panel_query
from grpo_core.telemetry.panels.page import panels_markdown
from grpo_core.telemetry.panels.panels import PANELS, Panel
from grpo_core.telemetry.panels.query import query_panel, query_panels

PAGE = Path(__file__).parents[4] / "docs/axiom_dashboard_queries.md"
_EXAMPLES: Mapping[type, Value] = {str: "text", int: 3, float: 1.5, bool: True}


def panel(number: int) -> Panel:
    return next(panel for panel in PANELS if panel.number == number)


def emit_all_kinds(telemetry: Telemetry) -> None:
    for kind, fields in FIELDS.items():
        telemetry.emit(kind, **{name: _EXAMPLES[type_] for name, type_ in fields.items()})


def rows_of(number: int, folder: Path) -> list[dict[str, object]]:
    result = query_panel(panel(number), folder)
    return [dict(zip(result.columns, row, strict=True)) for row in result.rows]


def test_there_are_eleven_panels_in_order() -> None:
    assert [panel.number for panel in PANELS] == list(range(1, 14))
    assert [panel(number).title for number in (9, 10, 11)] == [
        "GPU stats",
        "Inference throughput",
        "Policy lag and buffer depth",
    ]


def test_every_panel_shows_the_events_of_every_kind(tmp_path: Path) -> None:
    with Telemetry("r", [JsonlSink(tmp_path / "r.jsonl")]) as telemetry:
        emit_all_kinds(telemetry)

    results = query_panels(PANELS, tmp_path)
    for number, result in results.items():
        assert len(result.rows) == (2 if number == 8 else 1), number
        row = dict(zip(result.columns, result.rows[0], strict=True))
        assert row["run"] == "r"
        assert isinstance(row["time"], datetime)
        if number != 8:  # which has columns of two kinds
            assert None not in row.values()


@pytest.mark.parametrize("prepare", [lambda folder: None, lambda folder: (folder / "e.jsonl").write_text("")])
def test_without_events_every_panel_is_empty_but_has_its_columns(prepare: object, tmp_path: Path) -> None:
    prepare(tmp_path)  # type: ignore[operator]

    for folder in (tmp_path, tmp_path / "absent"):
        for result in query_panels(PANELS, folder).values():
            assert result.rows == ()
            assert {"time", "run"} < set(result.columns)


def test_kinds_and_columns_that_have_not_occurred_are_no_error(tmp_path: Path) -> None:
    with Telemetry("r", [JsonlSink(tmp_path / "r.jsonl")]) as telemetry:
        telemetry.emit("rollout", tokens_per_second=100.0, never_heard_of="x")

    assert rows_of(9, tmp_path) == []
    (row,) = rows_of(10, tmp_path)
    assert (row["tokens_per_second"], row["num_prefill_tokens"]) == (100.0, None)


def test_a_damaged_line_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    for number in range(2):
        with Telemetry("r", [JsonlSink(path)]) as telemetry:
            telemetry.emit("rollout", tokens_per_second=float(number))
        with path.open("a") as file:
            file.write('{"kind": "rollout", "tokens_per_second": 55')

    assert [row["tokens_per_second"] for row in rows_of(10, tmp_path)] == [0.0, 1.0]


def test_values_of_other_types_are_null_or_converted(tmp_path: Path) -> None:
    lines = [
        '{"kind": "rollout", "run": "r", "time": 1.0, "num_prompt_tokens": 7.0, "tokens_per_second": 3}',
        '{"kind": "rollout", "run": "r", "time": 2.0, "num_prompt_tokens": "many", "tokens_per_second": null}',
    ]
    (tmp_path / "r.jsonl").write_text("\n".join(lines))

    rows = rows_of(10, tmp_path)
    assert [(row["num_prompt_tokens"], row["tokens_per_second"]) for row in rows] == [(7, 3.0), (None, None)]


def test_rows_are_in_the_order_of_time_across_files_and_the_newest_are_kept(tmp_path: Path) -> None:
    for name, times in {"a": (3.0, 1.0), "b": (2.0, 4.0)}.items():
        lines = [f'{{"kind": "rollout", "run": "{name}", "time": {time}}}\n' for time in times]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))

    result = query_panel(panel(10), tmp_path)
    assert [(row[0].second, row[1]) for row in result.rows] == [(1, "a"), (2, "b"), (3, "a"), (4, "b")]
    assert query_panel(panel(10), tmp_path, max_rows=1).rows == result.rows[-1:]


def test_the_hit_rate_of_the_adapter_cache_adds_up_per_run(tmp_path: Path) -> None:
    for run, hits in {"a": (False, True, True, False), "b": (True,)}.items():
        with Telemetry(run, [JsonlSink(tmp_path / f"{run}.jsonl")]) as telemetry:
            for hit in hits:
                telemetry.emit("adapter_load", version=1, cache_hit=hit, load_ms=1.0, swap_ms=1.0)

    rates = [(row["run"], row["hit_rate"]) for row in rows_of(7, tmp_path)]
    assert rates == [("a", 0.0), ("a", 0.5), ("a", pytest.approx(2 / 3)), ("a", 0.5), ("b", 1.0)]


def test_a_broken_query_is_an_error_not_an_empty_panel(tmp_path: Path) -> None:
    broken = replace(panel(10), sql="SELECT time, run, tokens FROM events")

    with pytest.raises(duckdb.Error, match="tokens"):
        query_panel(broken, tmp_path)


def test_ctrl_c_within_a_query_is_a_keyboard_interrupt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = panel_query._answer

    def press_ctrl_c() -> None:
        os.kill(os.getpid(), signal.SIGINT)

    def answer_and_press_ctrl_c(*arguments: Any) -> panel_query.PanelResult:
        threading.Timer(0.3, press_ctrl_c).start()  # not earlier: DuckDB forgets a Ctrl-C while it reads the files
        return answer(*arguments)

    monkeypatch.setattr(panel_query, "_answer", answer_and_press_ctrl_c)
    endless = replace(panel(10), sql="SELECT sum(a.i * b.i) AS time FROM range(1000000) a(i), range(1000000) b(i)")
    with pytest.raises(KeyboardInterrupt):
        query_panel(endless, tmp_path)


def test_without_duckdb_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "duckdb", None)

    with pytest.raises(MissingPackageError, match=r"pip install 'pytest-grpo\[dashboard\]'"):
        query_panel(panel(9), tmp_path)


def test_fields_of_one_name_have_one_type_in_every_kind() -> None:
    for fields in FIELDS.values():
        for name, type_ in fields.items():
            assert COLUMNS[name] is type_, name


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: str(panel.number))
def test_both_queries_of_a_panel_read_the_same_kinds_and_known_fields(panel: Panel) -> None:
    def words(query: str) -> set[str]:
        return set(re.findall(r"\b[a-z]+(?:_[a-z]+)+\b", query)) - {"make_timestamp", "bin_auto", "hit_rate"}

    kinds = words(panel.apl) & set(FIELDS) | words(panel.sql) & set(FIELDS)
    assert kinds <= words(panel.apl)
    assert kinds <= words(panel.sql)
    assert words(panel.apl) | words(panel.sql) <= set(COLUMNS) | set(FIELDS)
    assert panel.apl.startswith("['grpo']\n| where kind ")


def test_the_page_is_the_one_that_the_panels_give() -> None:
    printed = subprocess.run(
        [sys.executable, "-W", "error", "-m", "grpo_core.telemetry.panels.page"],
        capture_output=True,
        check=True,
        env={"PYTHONPATH": str(PAGE.parents[1]), "PYTHONIOENCODING": "utf-8"},
    )

    assert printed.stdout.decode() == panels_markdown()
    assert PAGE.read_text(encoding="utf-8") == panels_markdown(), (
        "run `python -m grpo_core.telemetry.panels.page > docs/axiom_dashboard_queries.md`"
    )


def test_the_queries_of_the_page_run_as_they_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Telemetry("r", [JsonlSink(tmp_path / "data/events/r.jsonl")]) as telemetry:
        emit_all_kinds(telemetry)
    monkeypatch.chdir(tmp_path)
    view, *queries = re.findall(r"```sql\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)

    with duckdb.connect(":memory:") as connection:
        connection.execute(view)
        counts = [len(connection.execute(query).fetchall()) for query in queries]
    assert counts == [2 if panel.number == 8 else 1 for panel in PANELS]
