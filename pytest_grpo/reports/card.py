"""The card of one gate on the HTML page: its charts, numbers and history."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import median

from pytest_grpo.reports.charts import history_chart, pairs_chart
from pytest_grpo.reports.history import SavedRun, runs_of
from pytest_grpo.reports.markup import Markup, element, joined
from pytest_grpo.reports.references import reference_rows, with_references
from pytest_grpo.reports.table import Entry, arm_quantity, describe_interval, describe_measured, describe_phase
from pytest_grpo.settings.thresholds import format_number
from pytest_grpo.types import Outcome, Row, Verdict

CONDITIONS = {
    "cores_of_others": "cores used by others",
    "cpu_mhz": "CPU clock, MHz",
    "gpu_sm_mhz": "GPU clock, MHz",
    "gpu_temperature_c": "GPU temperature, \u00b0C",
    "gpu_throttle_reasons": "GPU throttled by",
}
SYMBOLS = {Verdict.PASS: "\u2713", Verdict.FAIL: "\u2715", Verdict.INCONCLUSIVE: "?"}
OUTCOME_SYMBOLS = {Outcome.FASTER: "\u25b2", Outcome.SLOWER: "\u25bc", Outcome.SAME: "=", Outcome.DIFFERS: "\u2260"}


def gate_card(number: int, entry: Entry, history: Sequence[SavedRun]) -> Markup:
    """The card of one gate, with the anchor ``#gate-<number>``."""
    nodeid, row = entry
    label = f"gate-{number}"
    charts = []
    if row.ratios:
        legend = "Green area: meets the threshold. Hollow points do not. Blue band: interval of the median. Log axis."
        charts.append(figure("Pairs", pairs_chart(row, f"{label}-pairs"), legend))
    runs = runs_of(entry, history)
    if runs and not math.isnan(row.measured):
        shown = [*((run.name, earlier) for run, earlier in runs), ("this run", row)]
        legend = "Filled diamond: pass. Cross: fail. Hollow square: inconclusive. Lines span each median's interval."
        charts.append(figure("History", history_chart(shown, f"{label}-history"), legend, _history_table(runs, row)))
    charts += _reference_histories(entry, history, label)
    said = [f"phase {describe_phase(row)}", row.system, nodeid, row.laid_over]
    return element(
        "article",
        element("h3", row.metric, " ", badge(row), id=label),
        element("p", " \u00b7 ".join(filter(None, said)), class_="quiet"),
        element("p", row.reason, class_="reason") if row.reason else joined(),
        element("div", element("div", *charts, class_="charts") if charts else joined(), _facts(row), class_="columns"),
        class_=row.verdict,
        aria_labelledby=label,
    )


def _reference_histories(entry: Entry, history: Sequence[SavedRun], label: str) -> list[Markup]:
    """Each arm over the reference arm, run by run: where both arms of a gate became slower, only this moves."""
    nodeid, row = entry
    known = [replace(run, rows=with_references(run.rows)) for run in history]
    charts = []
    for place, derived in enumerate(reference_rows(row)):
        runs = runs_of((nodeid, derived), known)
        if runs:
            shown = [*((run.name, earlier) for run, earlier in runs), ("this run", derived)]
            title = f"History of {derived.metric.rpartition(':')[2]}, in seconds"
            legend = "Time of the arm over that of the frozen reference. Shown; --grpo-compare judges it."
            chart = history_chart(shown, f"{label}-reference-{place}")
            charts.append(figure(title, chart, legend, _history_table(runs, derived)))
    return charts


def figure(title: str, chart: Markup, legend: str, *more: Markup) -> Markup:
    return element("figure", element("h4", title), chart, element("figcaption", legend), *more)


def _facts(row: Row) -> Markup:
    """The numbers of a gate in words."""
    facts = {"measured": describe_measured(row, with_interval=False), "threshold": row.threshold, "set by": row.source}
    if describe_interval(row):
        certainty = f"{100 * row.confidence:.4g} % interval" if row.confidence is not None else "interval"
        facts[certainty] = describe_interval(row)
    if row.num_pairs is not None:
        facts["pairs"] = str(row.num_pairs)
    facts |= {each.metric.rpartition(":")[2]: describe_measured(each) for each in reference_rows(row)}
    if row.duration_s:
        facts["took"] = f"{row.duration_s:.3g} s"
    facts["device"] = row.device
    return element("div", definitions(facts | conditions_of(row)), medians_table(row), class_="facts")


def conditions_of(row: Row) -> dict[str, str]:
    """What is known of the machine while the row was measured, in words."""
    known = {name: value for name, value in (row.conditions or {}).items() if value not in (None, [], (), "")}
    return {CONDITIONS.get(name, words(name)): _value(value) for name, value in known.items()}


def medians_table(row: Row) -> Markup:
    """The median of each quantity per arm, the compared one first."""
    if not row.arms:
        return joined()
    medians = {arm: {name: median(values) for name, values in row.arms[arm].items() if values} for arm in row.arms}
    if row.quantity is not None:
        compared = {arm: arm_quantity(row, arm) for arm in medians}
        medians = {
            arm: {row.quantity: median(compared[arm]), **found} if compared[arm] else found
            for arm, found in medians.items()
        }
    quantities = dict.fromkeys(name for found in medians.values() for name in found)
    lines = [
        element(
            "tr",
            element("th", words(name), scope="row"),
            *(
                element("td", format_number(found[name]) if name in found else "-", class_="number")
                for found in medians.values()
            ),
        )
        for name in quantities
    ]
    head = element("tr", *(element("th", name, scope="col") for name in ("median of", *medians)))
    return element("table", element("thead", head), element("tbody", *lines))


def _history_table(runs: Sequence[tuple[SavedRun, Row]], row: Row) -> Markup:
    earlier = [(run.name, run.commit[:10], run.created_at[:16].replace("T", " "), saved) for run, saved in runs]
    lines = [
        element(
            "tr",
            element("th", name, element("span", f"{commit} {when}", class_="quiet block"), scope="row"),
            element("td", *measured_cell(saved), class_="number"),
            element("td", badge(saved)),
        )
        for name, commit, when, saved in reversed([*earlier, ("this run", "", "", row)])
    ]
    head = element("tr", *(element("th", name, scope="col") for name in ("run", "measured", "verdict")))
    table = element("table", element("thead", head), element("tbody", *lines))
    return element("details", element("summary", f"{counted(len(lines), 'run')} in numbers"), table)


def definitions(facts: Mapping[str, str]) -> Markup:
    return element("dl", *(element("div", element("dt", name), element("dd", text)) for name, text in facts.items()))


def measured_cell(row: Row) -> list[Markup]:
    parts = [element("span", describe_measured(row, with_interval=False), class_="block")]
    if describe_interval(row):
        parts.append(element("span", describe_interval(row), class_="quiet block"))
    return parts


def badge(row: Row) -> Markup:
    """The verdict of a gate; of a comparison of two versions, what was found."""
    if row.outcome:
        return _badge(OUTCOME_SYMBOLS.get(Outcome(row.outcome), "\u00b7"), row.outcome, _tone(row))
    return _badge(SYMBOLS[Verdict(row.verdict)], row.verdict, row.verdict)


def _badge(symbol: str, name: str, tone: str) -> Markup:
    return element("span", element("span", symbol, aria_hidden="true"), f" {name}", class_=f"badge {tone}")


def _tone(row: Row) -> str:
    """The colour of what was found: nothing but a gain is green."""
    if row.verdict != Verdict.PASS:
        return row.verdict
    return "pass" if row.outcome == Outcome.FASTER else "neutral"


def _value(value: object) -> str:
    if isinstance(value, float):
        return format_number(value)
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def words(name: str) -> str:
    return name.replace("_", " ")


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
