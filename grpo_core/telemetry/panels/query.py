"""Runs the SQL of panels over the JSONL files, with DuckDB."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_core.errors import MissingPackageError
from grpo_core.telemetry.columns import COLUMNS

if TYPE_CHECKING:
    import duckdb

    from grpo_core.telemetry.panels.panels import Panel

_SQL_TYPES: Mapping[type, str] = {str: "VARCHAR", int: "BIGINT", float: "DOUBLE", bool: "BOOLEAN"}
_TABLE = ", ".join(f"{name} {_SQL_TYPES[type_]}" for name, type_ in COLUMNS.items())


@dataclass(frozen=True, slots=True)
class PanelResult:
    """The answer to one panel: one row per event, oldest first. No rows while such events have not occurred."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


def query_panel(panel: Panel, events_folder: Path, *, max_rows: int = 2000) -> PanelResult:
    """The newest ``max_rows`` rows of ``panel`` over ``events_folder/*.jsonl``.

    Raises:
        MissingPackageError: duckdb is not installed.
    """
    return query_panels([panel], events_folder, max_rows=max_rows)[panel.number]


def query_panels(
    panels: Sequence[Panel], events_folder: Path, *, max_rows: int = 2000, run: str | None = None
) -> dict[int, PanelResult]:
    """``query_panel`` of several, by number. The files are read once; with ``run`` only its own.

    Raises:
        MissingPackageError: duckdb is not installed.
    """
    try:
        import duckdb
    except ImportError:
        raise MissingPackageError(
            "panels need the package duckdb, which is not installed; run: pip install 'pytest-grpo[dashboard]'"
        ) from None
    try:
        with duckdb.connect(":memory:", config={"threads": 1}) as connection:  # training wants the cores
            _load_events(connection, events_folder, "*" if run is None else run)
            return {panel.number: _answer(connection, panel, max_rows) for panel in panels}
    except RuntimeError as error:
        if str(error) == "Query interrupted":  # what DuckDB makes of Ctrl-C
            raise KeyboardInterrupt from None
        raise


def view_sql(files: str) -> str:
    """SQL that makes the table ``events`` of the JSONL files that match ``files``."""
    quoted = "'" + files + "'"
    return f"CREATE OR REPLACE VIEW events AS\nSELECT * FROM {_reader(quoted)}\nWHERE kind IS NOT NULL;"


def _reader(files: str) -> str:
    """Columns are declared, not guessed, so that one which has not occurred yet is there, and null."""
    columns = ",\n  ".join(f"{name}: '{_SQL_TYPES[type_]}'" for name, type_ in COLUMNS.items())
    return f"read_json({files}, format = 'newline_delimited', ignore_errors = true, columns = {{\n  {columns}\n}})"


def _load_events(connection: duckdb.DuckDBPyConnection, events_folder: Path, runs: str) -> None:
    connection.execute(f"CREATE TABLE events ({_TABLE})")
    files = [str(file) for file in sorted(events_folder.glob(f"{runs}.jsonl*"))]
    if files:  # a damaged line is all nulls
        connection.execute(f"INSERT INTO events SELECT * FROM {_reader('?')} WHERE kind IS NOT NULL", [files])


def _answer(connection: duckdb.DuckDBPyConnection, panel: Panel, max_rows: int) -> PanelResult:
    newest = f"SELECT * FROM ({panel.sql}) ORDER BY time DESC LIMIT {max_rows}"
    found = connection.execute(f"SELECT * FROM ({newest}) ORDER BY time")
    columns = tuple(column[0] for column in found.description or ())
    return PanelResult(columns, tuple(found.fetchall()))
