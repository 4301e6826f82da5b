"""The two charts of a comparison of versions, as inline SVG: the ratio of each pair, and what each side measured."""

from __future__ import annotations

import math

from pytest_grpo.reports.charts import (
    BOTTOM,
    HEIGHT,
    INTERVAL_X,
    LEFT,
    PAIRS_RIGHT,
    RIGHT,
    TOP,
    axis,
    dot,
    interval_band,
    label_text,
    median_mark,
    picture,
    spread,
)
from pytest_grpo.reports.markup import Markup, element, joined
from pytest_grpo.reports.scale import Scale
from pytest_grpo.reports.table import arm_quantity, describe_measured
from pytest_grpo.types import Row


def ratio_chart(row: Row, title: str, label: str) -> Markup:
    """The ratio of each pair in order, on a logarithmic axis, with the band of ratios that count as the same.

    ``title`` is such as ``here over main``; ``label`` is the prefix of ids, unique in the page.
    """
    ratios = row.ratios or []
    values = [1.0, *ratios, row.measured, row.low, row.high, row.bound_low, row.bound_high]
    scale = Scale.around(values, top=TOP, bottom=BOTTOM, is_log=True)
    points = [
        dot(spread(index, len(ratios), LEFT, PAIRS_RIGHT), scale(ratio), True)
        for index, ratio in enumerate(ratios)
        if math.isfinite(ratio) and ratio > 0
    ]
    return picture(
        label,
        f"{row.metric}: {title}, pair by pair",
        f"{len(ratios)} pairs. Median {describe_measured(row)}: {row.outcome}.",
        _same_band(row, scale),
        interval_band(row, scale),
        axis(scale),
        element("line", class_="level", x1=LEFT, x2=RIGHT, y1=scale(1.0), y2=scale(1.0)),
        label_text(LEFT + 6, scale(1.0) - 6, "no change", "start"),
        *points,
        median_mark(INTERVAL_X, row, scale, "now"),
        label_text((LEFT + PAIRS_RIGHT) / 2, HEIGHT - 8, "pairs, in order", "middle"),
        label_text(INTERVAL_X, HEIGHT - 8, "median", "middle"),
    )


def sides_chart(row: Row, label: str) -> Markup:
    """The quantity on both sides, pair by pair: filled points are the first side of ``row.arms``."""
    here, other = (arm_quantity(row, name) for name in row.arms or {})
    scale = Scale.around([*here, *other], top=TOP, bottom=BOTTOM, is_log=min(*here, *other) > 0)
    places = [spread(index, len(here), LEFT, RIGHT) for index in range(len(here))]
    points = [
        joined(
            element("line", class_="pair", x1=x, x2=x, y1=scale(mine), y2=scale(its)),
            dot(x, scale(its), False),
            dot(x, scale(mine), True),
        )
        for x, mine, its in zip(places, here, other, strict=True)
    ]
    return picture(
        label,
        f"{row.metric}: both sides, pair by pair",
        f"{len(here)} pairs of values: {', '.join(row.arms or {})}.",
        axis(scale),
        *points,
        label_text((LEFT + RIGHT) / 2, HEIGHT - 8, "pairs, in order", "middle"),
    )


def has_sides(row: Row) -> bool:
    """Whether there are pairs of both sides to draw."""
    sides = [arm_quantity(row, name) for name in row.arms or {} if (row.arms or {})[name]]
    return len(sides) == 2 and bool(sides[0]) and len(sides[0]) == len(sides[1])


def _same_band(row: Row, scale: Scale) -> Markup:
    assert row.bound_low is not None, "the rows of two versions have a band"
    assert row.bound_high is not None
    top, bottom = scale(row.bound_high), scale(row.bound_low)
    return element("rect", class_="same", x=LEFT, y=top, width=RIGHT - LEFT, height=max(bottom - top, 0))
