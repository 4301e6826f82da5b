"""What float32 and bfloat16 allow: gates that need the one, and how closely results agree in the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_grpo.agreement import close_values, same_answers, same_tokens
from pytest_grpo.settings.applicability import not_applicable

if TYPE_CHECKING:
    from pytest_grpo.agreement import Agreement
    from pytest_grpo.systems.protocol import Rollout, SystemSettings


def is_float32(settings: SystemSettings) -> bool:
    """Whether weights and products both are."""
    return settings.dtype == settings.precision == "float32"


def needs_float32(settings: SystemSettings, why: str) -> None:
    """Leave the test where weights or products are bfloat16, whose rounding is larger than what the gate looks for."""
    for name, value in (("model.dtype", settings.dtype), ("training.precision", settings.precision)):
        if value != "float32":
            not_applicable(f"{name} is {value}, and {why}: rounding would hide an error; judge this once with float32")


def close_steps(settings: SystemSettings, tolerance: float = 0.0) -> Agreement:
    """Whether two training steps computed the same: loss, gradient norm and log-probabilities.

    ``tolerance`` is what the system states of its own, in nats.
    """
    return close_values(rtol=1e-3, atol=1e-4 + tolerance) if is_float32(settings) else close_values(rtol=0.1, atol=0.2)


def has_exact_greedy(settings: SystemSettings) -> bool:
    """Whether greedy answers have the same tokens whatever shares their batch."""
    return is_float32(settings) and settings.engine != "vllm"


def same_greedy(settings: SystemSettings, tolerance: float = 0.0) -> Agreement:
    """Whether greedy answers, as ``greedy_output`` gives them, agree. ``tolerance`` is what the system states, in
    nats."""
    if tolerance > 0:
        return same_answers(atol=tolerance)
    return same_tokens if has_exact_greedy(settings) else close_values(atol=1e-3 if is_float32(settings) else 0.2)


def greedy_output(settings: SystemSettings, rollout: Rollout, tolerance: float = 0.0) -> list[Any]:
    """Of each greedy answer its tokens; where rounding may tip one over, the log-probability of the first one.

    With a ``tolerance`` that the system states, its tokens and all their log-probabilities.
    """
    answers = [answer for group in rollout.completions for answer in group]
    if tolerance > 0:
        return [(answer.completion_ids.tolist(), answer.sampling_logprobs.tolist()) for answer in answers]
    if has_exact_greedy(settings):
        return [answer.completion_ids.tolist() for answer in answers]
    return [answer.sampling_logprobs[:1].tolist() for answer in answers]
