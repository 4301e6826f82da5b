"""What ``grpo axiom push`` puts into Axiom, as the JSON that its API takes (version 2 of its dashboards)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from grpo_core.errors import ConfigError
from grpo_core.telemetry.panels.panels import PANELS, Panel

DASHBOARD_UID = "pytest-grpo"
NAME_PREFIX = "grpo: "
"""Monitors of this name are ours: they are found again, and changed in place."""

_PROMINENT = (9, 10, 11)
_RUNS = 8
_COLUMNS = 12  # of Axiom's grid
_HEIGHT = 6
_TIMES = {"timeWindowStart": "qr-now-1h", "timeWindowEnd": "qr-now"}

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Documents:
    """All that is pushed."""

    dashboard: Document
    monitors: tuple[Document, ...]
    annotations: tuple[Document, ...]


def check_dataset(dataset: str) -> str:
    """
    Raises:
        ConfigError: a name that Axiom gives to no dataset, so that a query with it would be another query.
    """
    if not dataset or len(dataset) > 128 or not all(each.isalnum() or each in "-_.:" for each in dataset):
        raise ConfigError(
            f"dataset {dataset!r}: only letters, digits, '-', '_', '.' and ':' are allowed; give the one that gets the "
            "events, as AXIOM_DATASET or --dataset"
        )
    return dataset


def dashboard(dataset: str) -> Document:
    """The eleven panels: 9 to 11 in the first row, the others in pairs below them."""
    others = [panel for panel in PANELS if panel.number not in _PROMINENT]
    first = [panel for panel in PANELS if panel.number in _PROMINENT]
    return {
        "name": f"pytest-grpo ({dataset})",
        "description": "The panels of grpo panels and grpo dashboard. Written by grpo axiom push: what is changed here "
        "is lost with the next one.",
        "owner": "",  # Axiom makes it everyone's, the only owner that an API token may name
        "charts": [_chart(panel, dataset) for panel in (*first, *others)],
        "layout": [*_row(first, 0, 3), *_row(others, _HEIGHT, 2)],
        "refreshTime": 15,
        "schemaVersion": 2,
        **_TIMES,
    }


def _chart(panel: Panel, dataset: str) -> Document:
    query: Document = {"apl": apl_of(panel.apl, dataset)}
    if panel.number != _RUNS:
        query["queryOptions"] = {"displayNull": "span", "timeSeriesView": "charts"}
    return {
        "id": _id(panel),
        "type": "Table" if panel.number == _RUNS else "TimeSeries",
        "name": f"{panel.number}. {panel.title} ({panel.unit})",
        "query": query,
    }


def apl_of(apl: str, dataset: str) -> str:
    """A query of the panels over ``dataset``."""
    return apl.replace("['grpo']", f"['{dataset}']", 1)


def _row(panels: Sequence[Panel], top: int, per_row: int) -> list[Document]:
    width = _COLUMNS // per_row
    return [
        {"i": _id(panel), "x": place % per_row * width, "y": top + place // per_row * _HEIGHT, "w": width, "h": _HEIGHT}
        for place, panel in enumerate(panels)
    ]


def _id(panel: Panel) -> str:
    return f"panel-{panel.number:02}"
