"""Phase 5 of any system: the trainer gives the sampler's probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_grpo.gate.gates import Gate
    from pytest_grpo.systems.protocol import GrpoSystem, SystemSettings

    from .conftest import PlanFor


@pytest.mark.phase5
@pytest.mark.instead_of("test_the_trainer_gives_the_samplers_probabilities")
def test_the_trainer_of_the_system_gives_its_samplers_probabilities(
    grpo_gate: Gate, grpo_system: GrpoSystem, plan_for: PlanFor, settings: SystemSettings
) -> None:
    """The on-policy ratio is 1. ``transformers`` says what the probability is."""
    from ..checks.plain_policy import PlainPolicy
    from ..checks.precision import needs_float32
    from ..checks.system_samples import beyond, ratio_error, tolerance_note

    needs_float32(settings, "a ratio of 1 is checked to 0.001")
    plain = PlainPolicy(settings.model, scaling=settings.lora_alpha / settings.lora_rank)
    tolerance = grpo_system.logprob_tolerance
    error = beyond(ratio_error(grpo_system, plain, plan_for()), tolerance)
    grpo_gate.check("sampler_ratio_error", error, note=tolerance_note(tolerance))
