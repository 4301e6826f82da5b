"""The page of all panels: ``python -m grpo_core.telemetry.panels.page > docs/axiom_dashboard_queries.md`` writes it."""

from __future__ import annotations

from grpo_core.telemetry.panels.panels import PANELS, Panel
from grpo_core.telemetry.panels.query import view_sql

_HEAD = """# Dashboard queries

The panels of a run, 9 to 11 first when something feels slow. This page is generated from
`grpo_core/telemetry/panels/panels.py`; a test compares the two.

- **Axiom**: `grpo axiom push` makes a dashboard of them, with monitors ([dashboard.md](dashboard.md#in-axiom)). By
  hand: `['grpo']` is the dataset, put your `AXIOM_DATASET` there. Events arrive within a second or two.
- **Page**: `grpo dashboard` shows them with much more, from the JSONL files of `GRPO_HOME`.
- **Terminal**: `grpo panels --watch` shows all of them, from the same files.
- **DuckDB**: make the table below in the folder of `GRPO_HOME`, then run a panel's SQL. The APL averages over time
  bins, the SQL gives every event.

```sql
{view}
```
"""


def panels_markdown() -> str:
    """The page of all panels with their queries."""
    view = view_sql("data/events/*.jsonl")
    return "\n".join([_HEAD.format(view=view), *map(_section, PANELS)])


def _section(panel: Panel) -> str:
    return (
        f"## {panel.number}. {panel.title}\n\n{panel.shows}\n\nUnit: {panel.unit}.\n\n"
        f"```kusto\n{panel.apl}\n```\n\n```sql\n{panel.sql}\n```\n"
    )


if __name__ == "__main__":
    print(panels_markdown(), end="")
