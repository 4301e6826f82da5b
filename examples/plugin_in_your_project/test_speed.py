from my_sampler import generate

from pytest_grpo import Sample, same_tokens

PROMPTS = list(range(16))


def sample_in_batches_of(size):
    parts = [generate(PROMPTS[first : first + size], num_tokens=32) for first in range(0, len(PROMPTS), size)]
    answers = [answer for part in parts for answer in part]
    return Sample(quantities={"tokens": sum(map(len, answers))}, output=answers)


def test_batches_pay(grpo_arms):
    batched, single = grpo_arms(
        agree=same_tokens,
        batched=lambda: sample_in_batches_of(16),
        single=lambda: sample_in_batches_of(1),
    )
    assert batched.tokens_per_second >= 3 * single.tokens_per_second
