"""The two charts of a gate, as inline SVG: its pairs against the threshold, and its median over saved runs.

page.css has colours and line styles. Shapes repeat what colours say: a point that does not meet the threshold is
hollow, a failed run is a cross.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from pytest_grpo.reports.markup import Markup, element, joined
from pytest_grpo.reports.scale import Scale
from pytest_grpo.reports.table import describe_measured, interval
from pytest_grpo.types import Row, Verdict

WIDTH, HEIGHT = 460.0, 214.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 448.0, 14.0, 190.0
INTERVAL_X = 424.0
"""The horizontal position of the interval, right of the pairs."""
PAIRS_RIGHT = 396.0
POINT_RADIUS = 3.6
CAP = 6.0


def pairs_chart(row: Row, label: str) -> Markup:
    """The ratio of each pair in order, and the median with its interval, on a logarithmic axis.

    ``label`` is the prefix of ids, unique in the page.
    """
    ratios = row.ratios or []
    values = [*ratios, row.measured, row.low, row.high, row.bound_low, row.bound_high]
    scale = Scale.around(values, top=TOP, bottom=BOTTOM, is_log=True)
    points = [
        dot(spread(index, len(ratios), LEFT, PAIRS_RIGHT), scale(ratio), _meets(row, ratio))
        for index, ratio in enumerate(ratios)
        if math.isfinite(ratio) and ratio > 0
    ]
    met = sum(_meets(row, ratio) for ratio in ratios)
    description = (
        f"{len(ratios)} pairs, {met} of them within the threshold {row.threshold}. Median {describe_measured(row)}."
    )
    return picture(
        label,
        f"Pairs of {row.metric}",
        description,
        interval_band(row, scale),
        axis(scale),
        _threshold(row, scale),
        *points,
        median_mark(INTERVAL_X, row, scale, "now"),
        label_text((LEFT + PAIRS_RIGHT) / 2, HEIGHT - 8, "pairs, in order", "middle"),
        label_text(INTERVAL_X, HEIGHT - 8, "median", "middle"),
    )


def history_chart(runs: Sequence[tuple[str, Row]], label: str) -> Markup:
    """The median of each (name, row), oldest first, with its interval, against the threshold of the last one."""
    rows = [row for _, row in runs]
    last = rows[-1]
    values = [value for row in rows for value in (row.measured, row.low, row.high)]
    scale = Scale.around(
        [*values, last.bound_low, last.bound_high],
        top=TOP,
        bottom=BOTTOM,
        is_log=last.ratios is not None and all(row.measured > 0 for row in rows),
    )
    places = [spread(index, len(runs), LEFT, RIGHT) for index in range(len(runs))]
    line = " ".join(f"{x:.1f},{scale(row.measured):.1f}" for x, row in zip(places, rows, strict=True))
    marks = [median_mark(x, row, scale, "then") for x, row in zip(places[:-1], rows[:-1], strict=True)]
    description = f"{len(runs)} runs against the threshold {last.threshold}: " + ", ".join(
        f"{name} {describe_measured(row, with_interval=False)} {row.verdict}" for name, row in runs
    )
    return picture(
        label,
        f"History of {last.metric}",
        description,
        axis(scale),
        _threshold(last, scale),
        element("polyline", class_="trend", points=line),
        *marks,
        median_mark(places[-1], last, scale, "now"),
        label_text(LEFT, HEIGHT - 8, _short(runs[0][0]), "start"),
        label_text(RIGHT, HEIGHT - 8, _short(runs[-1][0]), "end"),
    )


def picture(label: str, title: str, description: str, *content: Markup) -> Markup:
    return element(
        "svg",
        element("title", title, id=f"{label}-title"),
        element("desc", description, id=f"{label}-desc"),
        *content,
        viewBox=f"0 0 {WIDTH:.0f} {HEIGHT:.0f}",
        role="img",
        aria_labelledby=f"{label}-title {label}-desc",
    )


def axis(scale: Scale) -> Markup:
    ticks = []
    for tick in scale.ticks:
        y = scale(tick)
        ticks.append(element("line", class_="grid", x1=LEFT, x2=RIGHT, y1=y, y2=y))
        ticks.append(label_text(LEFT - 7, y + 4, f"{tick:.4g}", "end"))
    return joined(*ticks)


def _threshold(row: Row, scale: Scale) -> Markup:
    """The shaded area of values that pass, and its bounds."""
    if row.bound_low is not None and row.bound_low == row.bound_high:
        area = joined()
    else:
        top = TOP if row.bound_high is None else scale(row.bound_high)
        bottom = BOTTOM if row.bound_low is None else scale(row.bound_low)
        area = element("rect", class_="good", x=LEFT, y=top, width=RIGHT - LEFT, height=max(bottom - top, 0))
    bounds = dict.fromkeys(bound for bound in (row.bound_low, row.bound_high) if bound is not None)
    return joined(area, *(_edge(scale(bound), f"threshold {bound:.4g}") for bound in bounds))


def _edge(y: float, name: str) -> Markup:
    below = y < TOP + 20
    return joined(
        element("line", class_="edge", x1=LEFT, x2=RIGHT, y1=y, y2=y),
        element("text", name, class_="edge-name", x=LEFT + 6, y=y + (15 if below else -6)),
    )


def interval_band(row: Row, scale: Scale) -> Markup:
    ends = interval(row)
    if ends is None:
        return joined()
    bottom, top = map(scale, ends)
    return element("rect", class_="band", x=LEFT, y=top, width=PAIRS_RIGHT - LEFT, height=max(bottom - top, 1))


def median_mark(x: float, row: Row, scale: Scale, when: str) -> Markup:
    """The median, shaped by the verdict, with whiskers where there is an interval."""
    y = scale(row.measured)
    whiskers = ""
    ends = interval(row)
    if ends is not None:
        low, high = ends
        whiskers = f"M{x:.1f} {scale(low):.1f}V{scale(high):.1f}"
        whiskers += "".join(f"M{x - CAP:.1f} {scale(end):.1f}h{2 * CAP:.0f}" for end in ends if scale.shows(end))
    size = POINT_RADIUS + 1.4
    shapes = {
        Verdict.PASS: f"M{x:.1f} {y - size:.1f}l{size} {size}l{-size} {size}l{-size} {-size}Z",
        Verdict.FAIL: f"M{x - size:.1f} {y - size:.1f}l{2 * size} {2 * size}m0 {-2 * size}l{-2 * size} {2 * size}",
        Verdict.INCONCLUSIVE: f"M{x - size:.1f} {y - size:.1f}h{2 * size}v{2 * size}h{-2 * size}Z",
    }
    return element(
        "g",
        element("title", f"{describe_measured(row)}: {row.outcome or row.verdict}"),
        element("path", class_="whisker", d=whiskers) if whiskers else joined(),
        element("path", class_="median", d=shapes[Verdict(row.verdict)]),
        class_=f"{when} {row.verdict}",
    )


def dot(x: float, y: float, meets: bool) -> Markup:
    return element("circle", class_="dot" if meets else "dot off", cx=x, cy=y, r=POINT_RADIUS)


def _meets(row: Row, value: float) -> bool:
    above = row.bound_low is None or value >= row.bound_low
    return above and (row.bound_high is None or value <= row.bound_high)


def spread(index: int, count: int, left: float, right: float) -> float:
    """``count`` places from left to right, half a gap free at both ends."""
    return left + (index + 0.5) * (right - left) / count


def label_text(x: float, y: float, text: str, anchor: str) -> Markup:
    return element("text", text, x=x, y=y, text_anchor=anchor)


def _short(name: str, room: int = 24) -> str:
    return name if len(name) <= room else name[: room - 1] + "\N{HORIZONTAL ELLIPSIS}"
