"""What the README shows works as it is shown, and is what the examples are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PROJECT_FOLDER = Path(__file__).resolve().parent.parent
README = (PROJECT_FOLDER / "README.md").read_text(encoding="utf-8")
MAX_LINES = 314  # 41 of them are the verdicts of `grpo bench`
"""A README that grows longer than this hides its own beginning: write a page instead."""


@pytest.mark.parametrize(
    "file", ["examples/plugin_in_your_project/test_speed.py", "examples/own_environment/your_game.py"]
)
def test_a_snippet_is_the_file_of_the_example(file: str) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert (PROJECT_FOLDER / file).read_text(encoding="utf-8") in blocks


def test_it_answers_first_what_is_asked_first() -> None:
    titles = re.findall(r"^#{2,3} (.+)$", README, flags=re.MULTILINE)
    asked = ["The two commands", "The suite", "Baselines", "Another stack", "Train", "Your own model"]
    assert [title for title in titles if title in asked] == asked
    assert README.index("def test_") < README.index("## ")
    assert len(README.splitlines()) <= MAX_LINES


def test_every_link_leads_to_a_file() -> None:
    links = {target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", README)}
    assert [link for link in links if "://" not in link and not (PROJECT_FOLDER / link).exists()] == []


def test_the_verdicts_it_shows_are_of_the_gates_there_are() -> None:
    shown = re.findall(r"^\d {6}(\w+) ", README, flags=re.MULTILINE)
    thresholds = (PROJECT_FOLDER / "bench" / "thresholds.toml").read_text(encoding="utf-8")
    assert len(shown) == len(set(shown)) == 40
    assert [name for name in shown if not re.search(rf"^{name} = ", thresholds, flags=re.MULTILINE)] == []
