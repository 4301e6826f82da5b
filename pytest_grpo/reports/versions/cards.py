"""What the HTML page shows of a comparison of versions: how many changed, a table, and a card for each quantity."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from pytest_grpo.reports.card import badge, conditions_of, definitions, figure, measured_cell, medians_table
from pytest_grpo.reports.markup import Markup, element, joined
from pytest_grpo.reports.overview import overview
from pytest_grpo.reports.table import Entry, arm_quantity, describe_interval, describe_measured, describe_phase
from pytest_grpo.reports.versions.charts import has_sides, ratio_chart, sides_chart
from pytest_grpo.reports.versions.table import compared_versions, count_outcomes
from pytest_grpo.settings.thresholds import format_number
from pytest_grpo.types import Outcome, Row, Verdict


def versions_headline(entries: Sequence[Entry]) -> str:
    """``here over main: 1 slower, 2 faster, 14 same``"""
    return f"{compared_versions([row for _, row in entries])}: {count_outcomes(entries)}"


def outcome_counts(entries: Sequence[Entry]) -> list[Markup]:
    """One item for each outcome that there is, with its number."""
    found = [row for _, row in entries]
    items = []
    for outcome in Outcome:
        rows = [row for row in found if row.outcome == outcome]
        if rows:
            items.append(element("li", element("b", str(len(rows))), f" {outcome}"))
    return items


def versions_overview(numbered: Sequence[tuple[int, Entry]]) -> Markup:
    """A table of all quantities, by test; ``numbered`` has the anchor of each."""
    title = compared_versions([row for _, (_, row) in numbered])
    names = next((list(row.arms) for _, (_, row) in numbered if row.arms), ["here", "there"])
    head = [("quantity", None), *((name, "wide") for name in names), (title, None), ("outcome", None)]
    lines, last = [], ""
    for number, (nodeid, row) in numbered:
        if nodeid != last:
            test = element("span", _place(nodeid, row), class_="quiet")
            lines.append(element("tr", element("th", test, colspan=len(head), scope="rowgroup")))
            last = nodeid
        sides = (element("td", _side_median(row, place), class_="wide number") for place in range(2))
        lines.append(
            element(
                "tr",
                element("th", element("a", row.metric, href=f"#gate-{number}"), scope="row"),
                *sides,
                element("td", *measured_cell(row), class_="number"),
                element("td", badge(row)),
            )
        )
    return overview("Two versions", "versions", head, lines)


def version_card(number: int, entry: Entry, title: str) -> Markup:
    """The card of one quantity, with the anchor ``#gate-<number>``."""
    nodeid, row = entry
    label = f"gate-{number}"
    charts = []
    if row.ratios:
        legend = "Grey area: counts as the same. Blue band: interval of the median. Log axis."
        charts.append(figure("Ratio", ratio_chart(row, title, f"{label}-ratios"), legend))
    if has_sides(row):
        here, other = row.arms or {}
        legend = f"Filled points: {here}. Hollow points: {other}."
        charts.append(figure("Both sides", sides_chart(row, f"{label}-sides"), legend))
    drawn = element("div", *charts, class_="charts") if charts else joined()
    return element(
        "article",
        element("h3", row.metric, " ", badge(row), id=label),
        element("p", _place(nodeid, row), class_="quiet"),
        element("p", row.reason, class_="reason") if row.reason else joined(),
        element("div", drawn, _facts(row, title), class_="columns"),
        class_=row.verdict if row.verdict != Verdict.PASS else "neutral",
        aria_labelledby=label,
    )


def _place(nodeid: str, row: Row) -> str:
    return nodeid if row.phase is None else f"phase {describe_phase(row)} \u00b7 {nodeid}"


def _facts(row: Row, title: str) -> Markup:
    facts = {title: describe_measured(row, with_interval=False), "outcome": row.outcome}
    if describe_interval(row):
        facts[f"{100 * row.confidence:.4g} % interval" if row.confidence else "interval"] = describe_interval(row)
    if row.num_pairs is not None:
        facts |= {"counts as the same": row.threshold, "pairs": str(row.num_pairs)}
    if row.duration_s:
        facts["took"] = f"{row.duration_s:.3g} s"
    facts["device"] = row.device
    return element("div", definitions(facts | conditions_of(row)), medians_table(row), class_="facts")


def _side_median(row: Row, place: int) -> str:
    """The median of the quantity on one side; ``-`` where it was not measured in pairs."""
    if not has_sides(row):
        return "-"
    return format_number(median(arm_quantity(row, list(row.arms or {})[place])))
