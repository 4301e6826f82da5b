from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo_core.errors import PromptError
from grpo_core.rollout.constraint import LineConstraint
from grpo_core.rollout.protocol import GenerationRequest, SamplingParams
from grpo_core.rollout.torch_engine.scheduler import check_request, completion_budget, plan_cohorts, prefill_batches


def request(
    prompt: int, length: int = 3, *, max_tokens: int = 4, constraint: LineConstraint | None = None
) -> GenerationRequest:
    return GenerationRequest(
        np.full(length, prompt, dtype=np.int32), SamplingParams(0, max_tokens=max_tokens), constraint
    )


@settings(deadline=None)
@given(
    prompts=st.lists(st.tuples(st.integers(1, 6), st.integers(1, 5)), max_size=40),
    max_sequences=st.integers(1, 9),
)
def test_cohorts_are_dense_and_hold_every_request_once(prompts: list[tuple[int, int]], max_sequences: int) -> None:
    requests = [request(prompt, length) for prompt, length in prompts]

    cohorts = plan_cohorts(requests, max_sequences)

    members = [member for cohort in cohorts for group in cohort for member in group.members]
    assert sorted(members) == list(range(len(requests)))
    for cohort in cohorts:
        assert len({len(group.members) for group in cohort}) == 1
        assert 0 < sum(len(group.members) for group in cohort) <= max_sequences
        for group in cohort:
            assert all(np.array_equal(requests[member].prompt_ids, group.prompt_ids) for member in group.members)


def test_siblings_share_one_group_and_similar_lengths_one_cohort() -> None:
    requests = [request(1, 9), request(2, 2), request(1, 9), request(2, 2), request(3, 8), request(3, 8)]

    cohorts = plan_cohorts(requests, 4)

    assert [[group.members for group in cohort] for cohort in cohorts] == [[(1, 3), (4, 5)], [(0, 2)]]


def test_a_group_larger_than_the_batch_is_split() -> None:
    cohorts = plan_cohorts([request(1) for _ in range(7)], 3)

    assert sorted(len(group.members) for cohort in cohorts for group in cohort) == [1, 3, 3]


def test_prefill_batches_keep_their_budget() -> None:
    (cohort,) = plan_cohorts([request(prompt, length) for prompt, length in enumerate((2, 3, 3, 5, 20, 4))], 100)

    batches = prefill_batches(cohort, max_tokens=10)

    assert [[len(group.prompt_ids) for group in batch] for batch in batches] == [[2, 3, 3], [4, 5], [20]]


def test_a_constraint_sets_the_budget_of_a_completion() -> None:
    constraint = LineConstraint((((1, 2, 3), (4, 5)), ((6,),)))

    assert completion_budget(request(1, max_tokens=2, constraint=constraint)) == 4
    assert completion_budget(request(1, max_tokens=2)) == 2


def test_prompts_are_checked_with_what_may_follow() -> None:
    check_request(request(1, 6, max_tokens=4), max_context_tokens=10)
    with pytest.raises(PromptError, match=r"prompt of 7 tokens and up to 4 to generate: the model's context is 10"):
        check_request(request(1, 7, max_tokens=4), max_context_tokens=10)
    with pytest.raises(PromptError, match="prompt of 0 tokens"):
        check_request(request(1, 0), max_context_tokens=10)
    with pytest.raises(PromptError, match="max_tokens 0"):
        check_request(request(1, 3, max_tokens=0), max_context_tokens=10)
