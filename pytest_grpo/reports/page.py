"""The verdicts as one self-contained HTML page: no network, no script, no other file.

``markup.element`` escapes all content, and the page's Content-Security-Policy blocks loading.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from pytest_grpo.reports.card import SYMBOLS, badge, counted, definitions, gate_card, measured_cell, words
from pytest_grpo.reports.history import SavedRun
from pytest_grpo.reports.markup import Markup, element, joined
from pytest_grpo.reports.overview import overview
from pytest_grpo.reports.report_file import write_report
from pytest_grpo.reports.table import (
    Absent,
    Entry,
    describe_measured,
    describe_phase,
    has_many_systems,
    name_of_test,
)
from pytest_grpo.reports.versions.cards import outcome_counts, version_card, versions_headline, versions_overview
from pytest_grpo.reports.versions.table import compared_versions, version_rows
from pytest_grpo.types import NOT_APPLICABLE, Row, Verdict

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def write_html(
    path: Path,
    rows: Sequence[Entry],
    machine: Mapping[str, str],
    history: Sequence[SavedRun],
    absences: Sequence[Absent] = (),
) -> None:
    """Write the page to ``path`` atomically.

    Raises:
        OSError: it cannot be written.
    """
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    page = render_html(rows, machine, history, absences, created_at=now)
    write_report(path, page.encode("utf-8", "backslashreplace"))


def render_html(
    rows: Sequence[Entry],
    machine: Mapping[str, str],
    history: Sequence[SavedRun],
    absences: Sequence[Absent] = (),
    *,
    created_at: str = "",
) -> str:
    """The page. ``rows`` are shown in their order; ``history`` is oldest first and does not hold this run.

    The comparison of two versions comes before the gates of this one.
    """
    title = _title(rows)
    return "<!DOCTYPE html>\n" + element(
        "html",
        element(
            "head",
            element("meta", charset="utf-8"),
            element("meta", http_equiv="Content-Security-Policy", content=POLICY),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            element("meta", name="color-scheme", content="light dark"),
            element("title", f"{title} - grpo verdicts"),
            element("style", Markup(Path(__file__).with_name("page.css").read_text(encoding="utf-8"))),
        ),
        element(
            "body",
            _banner(rows, title, created_at),
            element("main", *_sections(rows, history), *_absences(absences), _machine(machine)),
        ),
        lang="en",
    )


def _title(rows: Sequence[Entry]) -> str:
    versions, gates = version_rows(rows), [row for _, row in rows if not row.outcome]
    if not versions:
        return _headline(gates)
    return versions_headline(versions) + (f". {_headline(gates)}" if gates else "")


def _sections(rows: Sequence[Entry], history: Sequence[SavedRun]) -> list[Markup]:
    numbered = list(enumerate(rows))
    versions = [(number, entry) for number, entry in numbered if entry[1].outcome]
    gates = [(number, entry) for number, entry in numbered if not entry[1].outcome]
    sections = []
    if versions:
        title = compared_versions([row for _, (_, row) in versions])
        cards = [version_card(number, entry, title) for number, entry in versions]
        sections += [versions_overview(versions), _cards("Quantities", "quantities", cards)]
    if gates:
        cards = [gate_card(number, entry, history) for number, entry in gates]
        sections += [_overview(gates), _cards("Gates", "gates", cards)]
    return sections


def _absences(absences: Sequence[Absent]) -> list[Markup]:
    """The tests that do not apply, with their reasons."""
    if not absences:
        return []
    items = [
        element("li", f"phase {absence.phase}: ", _breakable(name_of_test(nodeid)), f": {absence.reason}")
        for nodeid, absence in absences
    ]
    title = element("h2", NOT_APPLICABLE.capitalize(), id="not-applicable")
    return [element("section", title, element("ul", *items), aria_labelledby="not-applicable")]


def _headline(rows: Sequence[Row]) -> str:
    verdicts = [row.verdict for row in rows]
    failed, undecided = verdicts.count(Verdict.FAIL), verdicts.count(Verdict.INCONCLUSIVE)
    if not rows:
        return "No gate gave a verdict"
    if failed:
        return f"{failed} of {counted(len(rows), 'gate')} {'fails' if failed == 1 else 'fail'}"
    if undecided:
        return f"No gate fails, {undecided} of {len(rows)} undecided"
    return f"All {len(rows)} gates pass" if len(rows) > 1 else "The gate passes"


def _banner(rows: Sequence[Entry], title: str, created_at: str) -> Markup:
    devices = sorted({row.device for _, row in rows})
    gates = [row for _, row in rows if not row.outcome]
    versions = version_rows(rows)
    counts = [
        element(
            "li",
            element("span", SYMBOLS[verdict], class_="symbol", aria_hidden="true"),
            element("b", str(sum(row.verdict == verdict for row in gates))),
            f" {verdict}",
            class_=verdict,
        )
        for verdict in Verdict
    ]
    return element(
        "header",
        element("p", "grpo: two versions" if versions else "grpo verdicts", class_="kicker"),
        element("h1", title),
        element("p", " \u00b7 ".join(filter(None, [created_at, *devices])), class_="quiet"),
        element("ul", *outcome_counts(versions), class_="counts") if versions else joined(),
        element("ul", *counts, class_="counts") if gates or not versions else joined(),
        _attention(rows),
    )


def _attention(rows: Sequence[Entry]) -> Markup:
    """The gates and quantities that do not pass, failures first, with their reasons."""
    items = [
        element("li", badge(row), " ", element("a", _breakable(row.metric), href=f"#gate-{number}"), f" {_why(row)}")
        for verdict in (Verdict.FAIL, Verdict.INCONCLUSIVE)
        for number, (_, row) in enumerate(rows)
        if row.verdict == verdict
    ]
    return element("ul", *items, class_="attention") if items else joined()


def _why(row: Row) -> str:
    return row.reason or describe_measured(row)


def _overview(rows: Sequence[tuple[int, Entry]]) -> Markup:
    many_systems = has_many_systems(row for _, (_, row) in rows)
    head = [("phase", "wide"), ("gate", None), ("measured", None), ("threshold", "wide"), ("verdict", None)]
    lines = []
    for number, (_, row) in rows:
        link = element("a", _breakable(row.metric), href=f"#gate-{number}")
        system = element("span", row.system, class_="tag") if many_systems and row.system else joined()
        lines.append(
            element(
                "tr",
                element("td", describe_phase(row), class_="wide"),
                element("th", link, " ", system, scope="row"),
                element(
                    "td", *measured_cell(row), element("span", row.threshold, class_="narrow quiet"), class_="number"
                ),
                element("td", row.threshold, class_="wide number"),
                element("td", badge(row)),
            )
        )
    return overview("Overview", "overview", head, lines)


def _cards(title: str, label: str, cards: Sequence[Markup]) -> Markup:
    return element("section", element("h2", title, id=label), *cards, aria_labelledby=label)


def _machine(machine: Mapping[str, str]) -> Markup:
    if not machine:
        return joined()
    return element(
        "section",
        element("h2", "Machine", id="machine"),
        element("div", definitions({words(name): value or "-" for name, value in machine.items()}), class_="machine"),
        aria_labelledby="machine",
    )


def _breakable(name: str) -> Markup:
    """A name that a narrow column may break after its underscores."""
    first, *rest = name.split("_")
    return joined(first, *(joined("_", element("wbr"), part) for part in rest))
