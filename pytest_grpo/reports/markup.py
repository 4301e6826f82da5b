"""Builds HTML and SVG with nested calls; all other text is escaped."""

from __future__ import annotations

import html

_VOID = frozenset({"meta", "wbr"})


class Markup(str):
    """Text that is already markup. Only ``element`` and constants of this project create it."""

    __slots__ = ()


def element(tag: str, /, *children: str, **attributes: str | float | None) -> Markup:
    """``<tag attribute="value">children</tag>``, its text and values escaped unless they are ``Markup``.

    ``stroke_width`` becomes ``stroke-width``, ``class_`` ``class``, and None leaves an attribute out. Numbers are
    rounded to hundredths.
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(_text(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if tag in _VOID:
        return Markup(f"<{tag}{given}>")
    return Markup(f"<{tag}{given}>{joined(*children)}</{tag}>")


def joined(*children: str) -> Markup:
    return Markup("".join(child if isinstance(child, Markup) else html.escape(child) for child in children))


def _text(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")
