"""Phase 4: the whole loop learns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_grpo.gate.gates import Gate

    from .conftest import BuildStack

REWARD = 0.9
WINDOW = 10
NUM_STEPS = 120


@pytest.mark.phase4
def test_the_loop_learns(grpo_gate: Gate, build_stack_for: BuildStack, is_embedded: bool) -> None:
    """The first run of ``grpo train``: sums of two numbers, until nine of ten answers are right."""
    from pytest_grpo.settings.applicability import not_applicable

    from .checks.learning import Goal, first_run, race_to

    if not is_embedded:
        not_applicable("how soon a run of your own learns is not known; python bench/time_to_reward.py compares two")
    stack = build_stack_for("learning", embedded=first_run())
    found = race_to(stack, Goal(REWARD, WINDOW, NUM_STEPS))
    num_steps = found.num_steps if found.is_reached else NUM_STEPS + 1
    grpo_gate.check("steps_to_reward", num_steps, note="" if found.is_reached else "never")
