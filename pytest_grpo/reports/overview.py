"""The table at the top of a page: a line for each card below, with a link to it."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_grpo.reports.markup import Markup, element


def overview(title: str, label: str, head: Sequence[tuple[str, str | None]], lines: Sequence[Markup]) -> Markup:
    """A section with the id ``label``. ``head`` has the name of each column, and its class."""
    return element(
        "section",
        element("h2", title, id=label),
        element(
            "table",
            element("thead", element("tr", *(element("th", name, scope="col", class_=kind) for name, kind in head))),
            element("tbody", *lines),
            class_="overview",
        ),
        aria_labelledby=label,
    )
