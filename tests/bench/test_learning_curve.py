from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from importlib.util import find_spec
from pathlib import Path

import pytest

from bench.learning_arms.run import LearningRun
from bench.learning_curve import drawing, figures, main, table

FAST = LearningRun((0.0, 0.2, 0.4, 0.6, 0.6), (), (1.0, 2.0, 3.0, 4.0, 5.0))
SLOW = LearningRun((0.0, 0.0, 0.2, 0.4, 0.6), (), (2.0, 4.0, 6.0, 8.0, 10.0))
NEVER = LearningRun((0.5, 0.0, 0.0, 0.0, 0.0), (), (2.0, 4.0, 6.0, 8.0, 12.0))
QUICK = ["--steps", "2", "--seeds", "3", "--groups", "2", "--group-size", "2", "--new-tokens", "3", "--window", "1"]


def test_a_reward_is_reached_by_a_full_window() -> None:
    assert FAST.trailing_means(2) == pytest.approx([0, 0.1, 0.3, 0.5, 0.6])
    assert FAST.steps_to(0.3, 2) == 3
    assert SLOW.steps_to(0.3, 2) == 4
    assert NEVER.steps_to(0.5, 2) is None, "the first step alone is no window of two"


def test_figures_are_paired_by_seed_and_a_run_that_never_learned_counts_as_one_step_more() -> None:
    found = figures({"grpo_core": [FAST, FAST], "trl": [SLOW, NEVER]}, 0.3, 2)

    assert found["steps_to_reward_grpo_core"].median == 3
    assert (found["steps_to_reward_trl"].low, found["steps_to_reward_trl"].high) == (4, 6)
    assert (found["steps_vs_trl"].low, found["steps_vs_trl"].high) == (3 / 6, 3 / 4)
    assert found["steps_vs_trl"].reached == "yes"
    lines = table({"grpo_core": [FAST, FAST], "trl": [SLOW, NEVER]}, (7, 8), 0.3, 2)
    assert "| 8 | trl | 0.250 | 0.000 | never | 12.0 |" in lines
    assert (found["seconds_vs_trl"].low, found["seconds_vs_trl"].high) == (3 / 12, 3 / 8)


def test_the_curves_are_drawn() -> None:
    root = ElementTree.fromstring(str(drawing({"grpo_core": [FAST, SLOW], "trl": [SLOW, SLOW]}, 2)))

    labels = [title.text for title in root.iter("{http://www.w3.org/2000/svg}title")]
    assert "grpo_core, step 5: 0.550" in labels
    assert "trl, step 2: 0.000" in labels
    assert len(labels) == 1 + 2 * 4


@pytest.mark.slow
def test_both_are_trained_on_the_same_questions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The arm of TRL only where it is installed."""
    assert main([*QUICK, "--json", str(tmp_path / "a.json"), "--svg", str(tmp_path / "a.svg"), "--reward", "0.1"]) == 0

    found = json.loads((tmp_path / "a.json").read_text())
    printed = capsys.readouterr().out
    arms = ["grpo_core", "trl"] if find_spec("trl") else ["grpo_core"]
    assert set(found) >= {f"steps_to_reward_{arm}" for arm in arms}
    assert all(f"| 3 | {arm} |" in printed for arm in arms)
    assert ("pip install" in printed) == ("trl" not in arms)
    assert (tmp_path / "a.svg").read_text().startswith("<svg")
