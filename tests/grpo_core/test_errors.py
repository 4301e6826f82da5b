"""What is quoted in a message is cut: it may be a file of megabytes."""

from __future__ import annotations

import pytest

from grpo_core.errors import first_line, printable, shown


@pytest.mark.parametrize(
    ("value", "text"),
    [("a\nb", "'a\\nb'"), ("x" * 10_000, "'" + "x" * 99 + "..."), (10**5000, "a number as long as this")],
    ids=["short", "long text", "long number"],
)
def test_a_value_is_cut(value: object, text: str) -> None:
    assert shown(value) == text


@pytest.mark.parametrize(
    ("error", "text"),
    [(ValueError("no\nnumber"), "no"), (ValueError("x" * 10_000), "x" * 300), (ValueError(), "ValueError")],
)
def test_what_other_code_says_is_one_short_line(error: Exception, text: str) -> None:
    assert first_line(error) == text


def test_what_would_command_a_terminal_is_escaped() -> None:
    assert printable("a\x1b[31mb\r\x07\x9b\u202e\u2028\x00") == r"a\x1b[31mb\r\x07\x9b\u202e\u2028\x00"
    assert printable("two\nlines\tof é, 漢, 👩‍🚀 and\u00a0more") == "two\nlines\tof é, 漢, 👩‍🚀 and\u00a0more"
