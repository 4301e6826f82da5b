from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict
from torch import Tensor, nn

from grpo_core.attention import ATTENTION_NAME
from grpo_core.config import ModelConfig
from grpo_core.model import Policy, attach_lora, load_policy
from grpo_core.packing import build_packed_batch, pack_completions, padded_tokens, score_chosen, split_packs
from grpo_core.types import Completion

ARCHITECTURES = ("qwen2", "qwen3", "llama")
MakeCompletion = Callable[..., Completion]
PlainLogprobs = Callable[..., Tensor]
LoadPlain = Callable[[Path], nn.Module]


def prompt(rng: np.random.Generator, length: int) -> np.ndarray:
    return rng.integers(1, 320, length, dtype=np.int32)


@pytest.fixture
def mixed(make_completion: MakeCompletion) -> list[Completion]:
    """Three groups of three with prompts of 1 to 23 tokens and completions of 1 to 9, one of them all forced."""
    rng = np.random.default_rng(0)
    completions = []
    for length in (23, 1, 7):
        shared = prompt(rng, length)
        for size in (5, 1, 9):
            completions.append(make_completion(rng, shared, size, temperature=0.75))
    completions[4] = make_completion(rng, completions[4].prompt_ids, 6, all_forced=True)
    completions[1] = make_completion(rng, completions[1].prompt_ids, 4, temperature=1.25, constrained=True)
    completions[7] = make_completion(rng, completions[7].prompt_ids, 8, constrained=True)
    return completions


def packed_logprobs(
    policy: Policy, completions: list[Completion], *, share_prompts: bool, max_tokens: int = 10_000
) -> list[Tensor]:
    """Log-probabilities [R] per completion; 0 where forced. Differentiable."""
    results = {}
    for packs in split_packs(pack_completions(completions, share_prompts=share_prompts), max_tokens):
        batch = build_packed_batch(packs, completions, policy.vocab_size, policy.device)
        logprobs = score_chosen(policy.decoder, policy.head, batch).logprobs
        for member in batch.order:
            mask = torch.from_numpy(completions[member].completion_mask)
            own = torch.zeros(len(mask), dtype=logprobs.dtype)
            own[mask] = logprobs[batch.members == member]
            results[member] = own
    return [results[index] for index in range(len(completions))]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("share_prompts", [True, False])
def test_scores_are_those_of_a_plain_forward_of_each_sequence(
    architecture: str,
    share_prompts: bool,
    model_folders: dict[str, Path],
    mixed: list[Completion],
    plain_logprobs: PlainLogprobs,
    load_plain: LoadPlain,
) -> None:
    policy = load_policy(ModelConfig(name=str(model_folders[architecture]), device="cpu"))
    plain = load_plain(model_folders[architecture])

    with torch.no_grad():
        packed = packed_logprobs(policy, mixed, share_prompts=share_prompts)
        expected = [plain_logprobs(plain, completion) for completion in mixed]

    assert max(float((a - b).abs().max()) for a, b in zip(packed, expected, strict=True)) < 1e-5
    assert min(float(values.min()) for values in expected) < -1  # there was something to get wrong
    assert packed[4].tolist() == [0.0] * 6


def test_entropy_is_that_of_the_distribution_sampled_from(
    policy: Policy, plain_model: nn.Module, make_completion: MakeCompletion
) -> None:
    completion = make_completion(np.random.default_rng(1), np.array([5, 6, 7], np.int32), 1, temperature=0.5)
    batch = build_packed_batch(
        pack_completions([completion], share_prompts=True), [completion], policy.vocab_size, policy.device
    )
    with torch.no_grad():
        entropy = score_chosen(policy.decoder, policy.head, batch).entropy
        logits = plain_model(input_ids=torch.tensor([[5, 6, 7]])).logits[0, -1] / 0.5

    assert float(entropy[0]) == pytest.approx(float(torch.distributions.Categorical(logits=logits).entropy()), abs=1e-5)


def test_a_sibling_does_not_change_a_score(policy: Policy, make_completion: MakeCompletion) -> None:
    rng = np.random.default_rng(2)
    shared = prompt(rng, 12)
    first, second, third = (make_completion(rng, shared, size) for size in (6, 6, 3))

    with torch.no_grad():
        alone = packed_logprobs(policy, [first], share_prompts=True)[0]
        together = packed_logprobs(policy, [third, first, second], share_prompts=True)[1]

    assert torch.allclose(alone, together, atol=1e-5, rtol=0)


def lora_gradients(policy: Policy, loss_of: Callable[[PeftModel], Tensor]) -> dict[str, Tensor]:
    """Gradients of ``loss_of(peft model)`` with respect to every A and B."""
    peft = attach_lora(policy, ModelConfig(lora_rank=3, lora_alpha=6.0), seed=0)
    generator = torch.Generator().manual_seed(3)
    parameters = {name: value for name, value in peft.named_parameters() if value.requires_grad}
    assert len(parameters) == len(get_peft_model_state_dict(peft)) == 2 * 2 * 4
    for value in parameters.values():
        value.data = torch.randn(value.shape, generator=generator, dtype=torch.float64) * 0.1
    loss_of(peft).backward()
    return {name: value.grad for name, value in parameters.items() if value.grad is not None}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gradients_are_those_of_a_plain_forward_in_float64(
    architecture: str,
    model_folders: dict[str, Path],
    mixed: list[Completion],
    plain_logprobs: PlainLogprobs,
    in_float64: Callable[[nn.Module], None],
) -> None:
    """The loss has another weight per token, so that no two tokens can be exchanged."""
    rng = np.random.default_rng(4)
    weights = [torch.from_numpy(rng.standard_normal(len(c.completion_ids))) for c in mixed]

    def weighted(logprobs: list[Tensor]) -> Tensor:
        return torch.stack([(a * b).sum() for a, b in zip(weights, logprobs, strict=True)]).sum()

    def gradients(share_prompts: bool | None, max_tokens: int = 10_000) -> dict[str, Tensor]:
        policy = load_policy(ModelConfig(name=str(model_folders[architecture]), device="cpu"))
        in_float64(policy.model)
        model: Any = policy.model
        if share_prompts is None:
            model.config._attn_implementation = "sdpa"
            return lora_gradients(policy, lambda peft: weighted([plain_logprobs(peft, c) for c in mixed]))
        assert model.config._attn_implementation == ATTENTION_NAME
        return lora_gradients(
            policy,
            lambda _: weighted(packed_logprobs(policy, mixed, share_prompts=share_prompts, max_tokens=max_tokens)),
        )

    plain = gradients(None)
    for other in (gradients(True), gradients(False), gradients(True, max_tokens=60)):
        for name, gradient in plain.items():
            assert float(gradient.abs().max()) > 1e-3, name
            assert float((gradient - other[name]).abs().max()) < 1e-9, name


def test_equal_prompts_become_one_pack_and_none_without_sharing(mixed: list[Completion]) -> None:
    shared = pack_completions(mixed, share_prompts=True)
    apart = pack_completions(mixed, share_prompts=False)

    assert [pack.members for pack in shared] == [(0, 1, 2), (3, 4, 5), (6, 7, 8)]
    assert [pack.num_model_tokens for pack in shared] == [23 + 3 * 9, 1 + 3 * 9, 7 + 3 * 9]
    assert [pack.members for pack in apart] == [(index,) for index in range(9)]
    assert sum(pack.num_model_tokens for pack in apart) == sum(completion.num_tokens for completion in mixed)


def test_micro_batches_keep_the_budget_and_never_split_a_pack(make_completion: MakeCompletion) -> None:
    rng = np.random.default_rng(5)
    completions = []
    for _ in range(30):
        shared = prompt(rng, int(rng.integers(1, 40)))
        for _ in range(int(rng.integers(1, 4))):
            completions.append(make_completion(rng, shared, int(rng.integers(1, 20))))
    packs = pack_completions(completions, share_prompts=True)

    batches = split_packs(packs, max_tokens=128)

    assert sorted(pack.members for batch in batches for pack in batch) == sorted(pack.members for pack in packs)
    for batch in batches:
        assert len({len(pack.members) for pack in batch}) == 1
        assert padded_tokens(batch) <= 128 or len(batch) == 1
    assert max(map(len, batches)) > 1


def test_the_head_chunks_long_batches_without_a_seam(
    monkeypatch: pytest.MonkeyPatch, policy: Policy, mixed: list[Completion]
) -> None:
    with torch.no_grad():
        whole = packed_logprobs(policy, mixed, share_prompts=True)
        monkeypatch.setattr("grpo_core.packing.HEAD_CHUNK_TOKENS", 3)
        chunked = packed_logprobs(policy, mixed, share_prompts=True)

    for a, b in zip(whole, chunked, strict=True):
        assert torch.allclose(a, b, atol=1e-6, rtol=0)
