"""What is quoted in a message is cut: it may be a file of megabytes."""

from __future__ import annotations

import pytest

from grpo_core.errors import first_line, shown


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
