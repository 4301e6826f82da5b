"""Which requests decode together: cohorts of equal group size, so that every tensor is dense."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from grpo_core.errors import PromptError
from grpo_core.rollout.protocol import GenerationRequest
from grpo_core.types import Int32


@dataclass(frozen=True, slots=True)
class PromptGroup:
    """Requests with the same prompt. ``members`` index the requests."""

    prompt_ids: Int32
    members: tuple[int, ...]


Cohort = tuple[PromptGroup, ...]


def completion_budget(request: GenerationRequest) -> int:
    """Most tokens that ``request`` can produce."""
    if request.constraint is None:
        return request.sampling.max_tokens
    return request.constraint.max_tokens


def check_request(request: GenerationRequest, max_context_tokens: int) -> None:
    """
    Raises:
        PromptError: the prompt is empty, or does not fit the context together with what may be generated, or nothing
            may be generated.
    """
    num_prompt, num_completion = len(request.prompt_ids), completion_budget(request)
    if num_completion < 1:
        raise PromptError(f"max_tokens {num_completion}: nothing could be generated; allow at least 1")
    if num_prompt == 0:
        raise PromptError("prompt of 0 tokens: at least 1 is needed; give the policy something to read")
    if num_prompt + num_completion > max_context_tokens:
        raise PromptError(
            f"prompt of {num_prompt} tokens and up to {num_completion} to generate: the model's context is "
            f"{max_context_tokens} tokens; shorten the prompt (compact prompts), lower "
            "rollout.max_completion_tokens, or take a model with a longer context"
        )


def plan_cohorts(requests: Sequence[GenerationRequest], max_sequences: int) -> list[Cohort]:
    """Group equal prompts, and groups of equal size, into cohorts of at most ``max_sequences`` sequences.

    A group larger than that is split. Within a size, prompts of similar length go together.
    """
    by_prompt: dict[bytes, list[int]] = {}
    for index, request in enumerate(requests):
        by_prompt.setdefault(request.prompt_ids.tobytes(), []).append(index)
    by_size: dict[int, list[PromptGroup]] = {}
    for members in by_prompt.values():
        for start in range(0, len(members), max_sequences):
            part = tuple(members[start : start + max_sequences])
            by_size.setdefault(len(part), []).append(PromptGroup(requests[part[0]].prompt_ids, part))
    cohorts: list[Cohort] = []
    for size, groups in sorted(by_size.items()):
        groups.sort(key=lambda group: len(group.prompt_ids))
        per_cohort = max(1, max_sequences // size)
        cohorts.extend(tuple(groups[start : start + per_cohort]) for start in range(0, len(groups), per_cohort))
    return cohorts


def prefill_batches(cohort: Cohort, max_tokens: int) -> list[Cohort]:
    """Consecutive prompts of ``cohort``, padded to at most ``max_tokens`` per batch (one prompt at least)."""
    batches: list[list[PromptGroup]] = []
    for group in cohort:
        if batches and (len(batches[-1]) + 1) * max(len(group.prompt_ids), _longest(batches[-1])) <= max_tokens:
            batches[-1].append(group)
        else:
            batches.append([group])
    return [tuple(batch) for batch in batches]


def _longest(groups: Sequence[PromptGroup]) -> int:
    return max(len(group.prompt_ids) for group in groups)
