import pytest

from pytest_grpo import CallCounter, nothing_to_check


@pytest.mark.phase2
def test_each_token_is_computed_once(grpo_system, grpo_arms):
    prompt = grpo_system.encode("Q: 3 + 4 =\nA:")

    def sample():
        with CallCounter(grpo_system) as counter:
            rollout = grpo_system.rollout([prompt], group_size=4, max_tokens=8, seed=0)
        num_calls, num_computed = counter.tokenizer_calls(told=0).value, counter.model_tokens(told=0).value
        num_tokens = 4 * len(prompt) + rollout.num_completion_tokens
        return {"num_tokenizer_calls": num_calls, "num_computed": num_computed, "num_tokens": num_tokens}

    (sampler,) = grpo_arms(agree=nothing_to_check, sampler=sample)
    assert sampler.num_tokenizer_calls == 0
    assert sampler.num_computed <= sampler.num_tokens
