"""Points in panels side by side, as one SVG file. Colours stand for series; hollow points are the exceptions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pytest_grpo.reports.markup import Markup, element, joined
from pytest_grpo.reports.scale import Scale

PANEL_WIDTH, HEIGHT = 420.0, 300.0
LEFT, RIGHT, TOP, BOTTOM = 52.0, 408.0, 48.0, 252.0
COLOURS = ("#1b6ca8", "#c8553d", "#4a7c59", "#7d5ba6", "#8a6d3b", "#444444")
STYLE = Markup(
    "text{font:12px system-ui,sans-serif;fill:#333}.title{font-weight:600}.grid{stroke:#ddd}rect{fill:#fff}"
    "circle{stroke-width:1.8}"
)


@dataclass(frozen=True, slots=True)
class Point:
    x: float
    y: float
    series: str
    label: str  # shown when the mouse is over it
    is_hollow: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    x_name: str
    points: Sequence[Point]


def picture(title: str, panels: Sequence[Panel]) -> Markup:
    """An SVG document. All panels have the same vertical axis, and at least one point each."""
    points = [point for panel in panels for point in panel.points]
    series = list(dict.fromkeys(point.series for point in points))
    colours = {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(series)}
    vertical = Scale.around([0.0, *(point.y for point in points)], top=TOP, bottom=BOTTOM, is_log=False)
    width = PANEL_WIDTH * len(panels)
    drawn = [
        element("g", _panel(panel, vertical, colours), transform=f"translate({place * PANEL_WIDTH:.0f} 0)")
        for place, panel in enumerate(panels)
    ]
    return element(
        "svg",
        element("title", title),
        element("style", STYLE),
        element("rect", width=width, height=HEIGHT),
        element("text", title, class_="title", x=LEFT, y=20.0),
        _legend(colours),
        *drawn,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width:.0f} {HEIGHT:.0f}",
        role="img",
    )


def _panel(panel: Panel, vertical: Scale, colours: dict[str, str]) -> Markup:
    # A ``Scale`` runs from ``bottom`` to ``top``: here from left to right.
    across = Scale.around([0.0, *(point.x for point in panel.points)], top=RIGHT, bottom=LEFT, is_log=False)
    return joined(
        *(_line(tick, vertical(tick)) for tick in vertical.ticks if tick >= 0),
        *(_text(across(tick), BOTTOM + 18, f"{tick:g}", "middle") for tick in across.ticks if tick >= 0),
        _text((LEFT + RIGHT) / 2, HEIGHT - 12, panel.x_name, "middle"),
        *(_dot(point, across(point.x), vertical(point.y), colours[point.series]) for point in panel.points),
    )


def _line(tick: float, y: float) -> Markup:
    grid = element("line", class_="grid", x1=LEFT, x2=RIGHT, y1=y, y2=y)
    return joined(grid, _text(LEFT - 6, y + 4, f"{tick:g}", "end"))


def _dot(point: Point, x: float, y: float, colour: str) -> Markup:
    fill = "#fff" if point.is_hollow else colour
    return element("circle", element("title", point.label), cx=x, cy=y, r=4.0, stroke=colour, fill=fill)


def _legend(colours: dict[str, str]) -> Markup:
    places = [LEFT + 110.0 * place for place in range(len(colours))]
    return joined(
        *(
            joined(element("circle", cx=x + 4, cy=34.0, r=4.0, fill=colour), _text(x + 14, 38.0, name, "start"))
            for x, (name, colour) in zip(places, colours.items(), strict=True)
        )
    )


def _text(x: float, y: float, text: str, anchor: str) -> Markup:
    return element("text", text, x=x, y=y, text_anchor=anchor)
