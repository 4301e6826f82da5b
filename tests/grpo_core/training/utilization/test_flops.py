"""The operations that are counted are never more than what a step computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from grpo_core.model.policy import Policy
from grpo_core.training.forward.packing import PACKINGS, build_packed_batch, pack_completions, score_chosen
from grpo_core.training.utilization.flops import ModelCost, matrix_rate
from grpo_core.types import Completion, Packing

NUM_PROMPT, NUM_TOKENS, GROUP_SIZE = 40, 12, 4


def completions(num_prompt: int = NUM_PROMPT) -> list[Completion]:
    rng = np.random.default_rng(0)
    prompt = rng.integers(5, 200, num_prompt).astype(np.int32)
    return [
        Completion(
            prompt_ids=prompt,
            completion_ids=rng.integers(5, 200, NUM_TOKENS).astype(np.int32),
            completion_mask=np.ones(NUM_TOKENS, dtype=np.bool_),
            sampling_logprobs=np.zeros(NUM_TOKENS, dtype=np.float32),
            policy_version=0,
            temperature=1.0,
            finish_reason="stop",
        )
        for _ in range(GROUP_SIZE)
    ]


def flops(policy: Policy, packing: Packing, of: Sequence[Completion], *, is_full: bool = False) -> float:
    packs = pack_completions(of, packing)
    cost = ModelCost.of(policy, num_adapter_weights=0, is_full=is_full)
    return cost.step_flops(build_packed_batch(packs, of, packing, policy.device))


def test_a_shared_prompt_counts_once_and_padding_never(policy: Policy) -> None:
    shared, packed, padded = (flops(policy, packing, completions()) for packing in PACKINGS)
    assert shared < 0.9 * packed
    assert packed == pytest.approx(padded)


def test_it_is_what_the_layers_compute_at_least(policy: Policy) -> None:
    """torch counts the products of a padded pass, in which every pair is computed and none is masked."""
    sequences = completions()
    batch = build_packed_batch(pack_completions(sequences, "padded"), sequences, "padded", policy.device)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        score_chosen(policy.decoder, policy.head, batch)
    forward = ModelCost.of(policy, num_adapter_weights=0, is_full=True).step_flops(batch) / 3
    counted = counter.get_total_flops()
    assert 0.3 * counted < forward <= counted


def test_trained_weights_cost_a_gradient_of_their_own(policy: Policy) -> None:
    frozen, full = (flops(policy, "shared_prefix", completions(), is_full=is_full) for is_full in (False, True))
    assert 1.2 < full / frozen < 2


def test_an_adapter_adds_its_own_products(policy: Policy) -> None:
    cost = ModelCost.of(policy, num_adapter_weights=0, is_full=False)
    sequences = completions()
    batch = build_packed_batch(pack_completions(sequences, "packed"), sequences, "packed", policy.device)
    added = replace(cost, num_adapter_weights=1000).step_flops(batch) - cost.step_flops(batch)
    assert 0 < added <= 6 * 1000 * batch.input_ids.numel()


def test_the_rate_is_measured_once() -> None:
    first = matrix_rate(torch.device("cpu"), torch.float32, 1)
    assert first == matrix_rate(torch.device("cpu"), torch.float32, 1) > 1e8
