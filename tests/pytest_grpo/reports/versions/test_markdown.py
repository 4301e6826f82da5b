from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pytest_grpo.reports.versions.markdown import MAX_LETTERS, Compared, code, versions_markdown
from tests.pytest_grpo.reports.conftest import a_change, an_exact_change

PROJECT_FOLDER = Path(__file__).resolve().parents[4]


def test_red_rows_come_first_and_what_is_the_same_is_folded_away() -> None:
    rows = [
        a_change("a.seconds", verdict="pass", outcome="same", measured=1.0, low=0.98, high=1.02),
        an_exact_change("a.num_passes"),
        a_change("b.seconds", verdict="inconclusive", outcome="inconclusive", reason="8 pairs prove neither"),
        a_change("c.seconds"),
    ]
    text = versions_markdown([Compared.of("bench/test_a.py::test_it[x::y]", row) for row in rows])
    assert text.splitlines() == [
        "1 slower, 1 same, 1 more, 1 inconclusive.",
        "",
        "| test | quantity | ratio | interval | outcome |",
        "| --- | --- | --- | --- | --- |",
        f"| {code('test_it[x::y]')} | {code('c.seconds')} | 0.8 | 0.75 to 0.85 | \u274c slower |",
        f"| {code('test_it[x::y]')} | {code('b.seconds')} | 0.8 | 0.75 to 0.85 | \u26a0 inconclusive |",
        f"| {code('test_it[x::y]')} | {code('a.num_passes')} | 2 | - | more |",
        "",
        f"- {code('b.seconds')} in {code('test_it[x::y]')}: {code('8 pairs prove neither')}",
        f"- {code('a.num_passes')} in {code('test_it[x::y]')}: {code('2 here, 1 in main')}",
        "",
        "<details><summary>1 same</summary>",
        "",
        "| test | quantity | ratio | interval | outcome |",
        "| --- | --- | --- | --- | --- |",
        f"| {code('test_it[x::y]')} | {code('a.seconds')} | 1 | 0.98 to 1.02 | same |",
        "",
        "</details>",
    ]


def test_a_reason_that_quantities_share_is_told_once() -> None:
    row = {"outcome": "inconclusive", "verdict": "inconclusive", "reason": "a busy machine"}
    rows = [Compared.of("a.py::test_a", a_change(f"{arm}.seconds", **row)) for arm in "ab"]
    (line,) = (line for line in versions_markdown(rows).splitlines() if line.startswith("- "))
    a, b, test, why = map(code, ("a.seconds", "b.seconds", "test_a", "a busy machine"))
    assert line == f"- {a} in {test}, {b} in {test}: {why}"


def test_an_expected_gain_that_is_missed_is_not_folded_away() -> None:
    rows = [a_change("a.seconds", outcome="same", reason="expected >= 1.1: not proven")]
    text = versions_markdown([Compared.of("test_a.py::test_it", row) for row in rows])
    assert "<details>" not in text
    assert "\u274c same" in text


def test_rows_beyond_the_limit_are_counted() -> None:
    rows = [Compared.of("a.py::test_a", a_change(f"arm{number}.seconds")) for number in range(5)]
    text = versions_markdown(rows, max_rows=2)
    assert text.startswith("5 slower.")
    assert "arm1" in text
    assert "arm2" not in text
    assert text.endswith("3 rows more are not shown.\n")


@pytest.mark.parametrize(
    "text",
    [
        "@somebody",
        "a|b",
        "`|@x`",
        "\\|x",
        "</code><img src=x>",
        "<!-- -->",
        "https://a.b",
        "www.a.b",
        "a@b.c",
        "[a](b)",
        "*a* ~b~",
        "&amp;",
        "#12",
        "a\n\n# b",
        "\u202ea",
    ],
)
def test_nothing_in_a_text_is_rendered(text: str) -> None:
    shown = code(text)
    inside = shown.removeprefix("<code>").removesuffix("</code>")
    left = inside.replace("&#", "").replace(";", "")
    assert not set(left) & set("@|`\\<>[]*~&#:./!\n\u202e")
    assert shown == f"<code>{inside}</code>"


def test_a_text_is_kept_and_cut() -> None:
    import html

    assert html.unescape(code("step.tokens | `x` \\ \u00e9")) == "<code>step.tokens | `x` \\ \\xe9</code>"
    assert len(html.unescape(code("a" * 1000))) == len("<code>...</code>") + MAX_LETTERS


def test_it_needs_the_standard_library_only() -> None:
    """A job that may write comments installs nothing."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(PROJECT_FOLDER)!r}); "
         "import pytest_grpo.reports.versions.markdown"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
