import numpy as np
import pytest

from pytest_grpo import Sample, same_tokens

PROMPT = "Q: 1 + 2 =\nA: "


@pytest.mark.phase2
def test_a_rollout_has_the_completions_that_were_asked_for(grpo_system):
    rollout = grpo_system.rollout([grpo_system.encode(PROMPT)], group_size=4, max_tokens=8, seed=0)
    assert grpo_system.name == "plain_stack"
    assert [len(group) for group in rollout.completions] == [4]
    assert all(np.all(answer.sampling_logprobs <= 0) for answer in rollout.completions[0])


@pytest.mark.phase2
def test_greedy_answers_do_not_depend_on_the_batch(grpo_system):
    prompts = [grpo_system.encode(PROMPT)]
    together, alone = (
        grpo_system.rollout(prompts, 2, max_tokens=8, seed=0, batch_size=size, greedy=True) for size in (2, 1)
    )
    for one, other in zip(together.completions[0], alone.completions[0], strict=True):
        assert one.completion_ids.tolist() == other.completion_ids.tolist()


@pytest.mark.phase2
def test_batches_pay(grpo_system, grpo_arms):
    prompts = [grpo_system.encode(PROMPT)]

    def sample(size):
        rollout = grpo_system.rollout(prompts, 8, max_tokens=8, seed=0, batch_size=size, greedy=True)
        ids = [answer.completion_ids.tolist() for answer in rollout.completions[0]]
        return Sample(quantities={"tokens": rollout.num_completion_tokens}, output=ids)

    batched, single = grpo_arms(agree=same_tokens, batched=lambda: sample(8), single=lambda: sample(1))
    assert batched.tokens_per_second >= 1.3 * single.tokens_per_second


@pytest.mark.phase3
def test_what_it_lacks_is_skipped(grpo_system):
    grpo_system.train_step(batch=None)
