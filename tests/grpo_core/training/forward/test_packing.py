from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from grpo_core.config import ModelConfig
from grpo_core.errors import ModelError
from grpo_core.model.attention import ATTENTION_NAME
from grpo_core.model.policy import Policy, load_policy
from grpo_core.training.forward.packing import (
    batch_tokens,
    build_packed_batch,
    pack_completions,
    score_chosen,
    split_packs,
    usable_packing,
)
from grpo_core.training.tuning.lora import attach_lora
from grpo_core.types import Completion, Packing
from tests.grpo_core.small_models import save_small_model

ARCHITECTURES = ("qwen2", "qwen3", "llama")
PACKINGS: tuple[Packing, ...] = ("shared_prefix", "packed", "padded")
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
    policy: Policy, completions: list[Completion], *, packing: Packing, max_tokens: int = 10_000
) -> list[Tensor]:
    """Log-probabilities [R] per completion; 0 where forced. Differentiable."""
    results = {
        index: torch.zeros(len(completion.completion_ids))
        for index, completion in enumerate(completions)
        if not completion.completion_mask.any()
    }
    for packs in split_packs(pack_completions(completions, packing), max_tokens, packing):
        batch = build_packed_batch(packs, completions, packing, policy.device)
        logprobs = score_chosen(policy.decoder, policy.head, batch).logprobs
        for member in batch.order:
            mask = torch.from_numpy(completions[member].completion_mask)
            own = torch.zeros(len(mask), dtype=logprobs.dtype)
            own[mask] = logprobs[batch.members == member]
            results[member] = own
    return [results[index] for index in range(len(completions))]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("packing", PACKINGS)
def test_scores_are_those_of_a_plain_forward_of_each_sequence(
    architecture: str,
    packing: Packing,
    model_folders: dict[str, Path],
    mixed: list[Completion],
    plain_logprobs: PlainLogprobs,
    load_plain: LoadPlain,
) -> None:
    policy = load_policy(ModelConfig(name=str(model_folders[architecture]), device="cpu"))
    plain = load_plain(model_folders[architecture])

    with torch.no_grad():
        packed = packed_logprobs(policy, mixed, packing=packing)
        expected = [plain_logprobs(plain, completion) for completion in mixed]

    assert max(float((a - b).abs().max()) for a, b in zip(packed, expected, strict=True)) < 1e-5
    assert min(float(values.min()) for values in expected) < -1  # there was something to get wrong
    assert packed[4].tolist() == [0.0] * 6


def test_entropy_is_that_of_the_distribution_sampled_from(
    policy: Policy, plain_model: nn.Module, make_completion: MakeCompletion
) -> None:
    completion = make_completion(np.random.default_rng(1), np.array([5, 6, 7], np.int32), 1, temperature=0.5)
    packs = pack_completions([completion], "shared_prefix")
    batch = build_packed_batch(packs, [completion], "shared_prefix", policy.device)
    with torch.no_grad():
        entropy = score_chosen(policy.decoder, policy.head, batch).entropy
        logits = plain_model(input_ids=torch.tensor([[5, 6, 7]])).logits[0, -1] / 0.5

    assert float(entropy[0]) == pytest.approx(float(torch.distributions.Categorical(logits=logits).entropy()), abs=1e-5)


def test_a_sibling_does_not_change_a_score(policy: Policy, make_completion: MakeCompletion) -> None:
    rng = np.random.default_rng(2)
    shared = prompt(rng, 12)
    first, second, third = (make_completion(rng, shared, size) for size in (6, 6, 3))

    with torch.no_grad():
        alone = packed_logprobs(policy, [first], packing="shared_prefix")[0]
        together = packed_logprobs(policy, [third, first, second], packing="shared_prefix")[1]

    assert torch.allclose(alone, together, atol=1e-5, rtol=0)


def lora_gradients(
    policy: Policy, loss_of: Callable[[PeftModel], Tensor], dtype: torch.dtype = torch.float64
) -> dict[str, Tensor]:
    """Gradients of ``loss_of(peft model)`` with respect to every A and B."""
    peft = attach_lora(policy, ModelConfig(lora_rank=3, lora_alpha=6.0), seed=0)
    generator = torch.Generator().manual_seed(3)
    parameters = {name: value for name, value in peft.named_parameters() if value.requires_grad}
    assert len(parameters) == len(get_peft_model_state_dict(peft)) == 2 * 2 * 4
    for value in parameters.values():
        value.data = (torch.randn(value.shape, generator=generator, dtype=torch.float64) * 0.1).to(dtype)
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

    def gradients(packing: Packing | None, max_tokens: int = 10_000) -> dict[str, Tensor]:
        policy = load_policy(ModelConfig(name=str(model_folders[architecture]), device="cpu"))
        in_float64(policy.model)
        model: Any = policy.model
        if packing is None:
            model.config._attn_implementation = "sdpa"
            return lora_gradients(policy, lambda peft: weighted([plain_logprobs(peft, c) for c in mixed]))
        assert model.config._attn_implementation == ATTENTION_NAME
        return lora_gradients(
            policy,
            lambda _: weighted(packed_logprobs(policy, mixed, packing=packing, max_tokens=max_tokens)),
        )

    plain = gradients(None)
    others = [*map(gradients, PACKINGS), gradients("shared_prefix", max_tokens=60), gradients("padded", max_tokens=60)]
    for other in others:
        for name, gradient in plain.items():
            assert float(gradient.abs().max()) > 1e-3, name
            assert float((gradient - other[name]).abs().max()) < 1e-9, name


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_in_float32_sharing_changes_no_loss_and_no_gradient(
    architecture: str, model_folders: dict[str, Path], mixed: list[Completion]
) -> None:
    """Of the mean over tokens, as a step has it, so that 1e-4 is of the size of a loss and not of a sum."""
    losses: dict[Packing, float] = {}

    def gradients(packing: Packing) -> dict[str, Tensor]:
        policy = load_policy(ModelConfig(name=str(model_folders[architecture]), device="cpu"))

        def loss(_: PeftModel) -> Tensor:
            value = torch.cat(packed_logprobs(policy, mixed, packing=packing)).mean()
            losses[packing] = float(value.detach())
            return value

        return lora_gradients(policy, loss, torch.float32)

    padded, shared = gradients("padded"), gradients("shared_prefix")
    assert abs(losses["shared_prefix"] - losses["padded"]) < 1e-4
    for name, gradient in padded.items():
        assert float(gradient.abs().max()) > 1e-3, name
        assert float((gradient - shared[name]).abs().max()) < 1e-4, name


def test_the_last_layer_computes_the_rows_that_predict_something(policy: Policy, mixed: list[Completion]) -> None:
    attach_lora(policy, ModelConfig(), seed=0)
    packs = pack_completions(mixed, "shared_prefix")
    batch = build_packed_batch(packs, mixed, "shared_prefix", policy.device)
    num_rows: list[int] = []
    for layer in policy.decoder.get_submodule("layers").children():
        layer.get_submodule("mlp").register_forward_hook(lambda _, inputs, output: num_rows.append(output.shape[1]))
    with torch.no_grad():
        score_chosen(policy.decoder, policy.head, batch)

    num_tokens, num_needed = batch.input_ids.numel(), len(batch.predictors.unique())
    assert num_needed < num_tokens
    assert num_rows == [num_tokens] * (policy.num_layers - 1) + [num_needed]


def test_completions_that_share_tokens_become_one_pack(mixed: list[Completion]) -> None:
    shared = pack_completions(mixed, "shared_prefix")
    packed = pack_completions(mixed, "packed")
    padded = pack_completions(mixed, "padded")

    # The fifth has nothing to learn; the prompt of one token is not worth a node of its own.
    assert sorted(pack.members for pack in shared) == [(0, 1, 2), (3,), (5,), (6, 7, 8)]
    needed = [int(np.flatnonzero(c.completion_mask)[-1]) for c in mixed if c.completion_mask.any()]
    sizes = {pack.members: pack.num_model_tokens for pack in shared}
    assert sizes[0, 1, 2] == 23 + sum(needed[:3])
    assert sizes[6, 7, 8] == 7 + sum(needed[5:])
    assert [pack.members for pack in packed] == [(index,) for index in range(9) if index != 4]
    assert sum(pack.num_model_tokens for pack in packed) == 3 * 23 + 2 * 1 + 3 * 7 + sum(needed)
    assert [pack.num_model_tokens for pack in padded] == [mixed[pack.members[0]].num_tokens for pack in padded]


def test_later_turns_share_what_came_before(policy: Policy, make_completion: MakeCompletion) -> None:
    """The second turn's prompt is the first turn's prompt, its completion, and an answer to it."""
    rng = np.random.default_rng(6)
    shared = prompt(rng, 30)
    turns: list[Completion] = []
    for _ in range(3):
        context = shared
        for _ in range(3):
            turn = make_completion(rng, context, 10)
            turns.append(turn)
            context = np.concatenate([context, turn.completion_ids, prompt(rng, 5)])

    (pack,) = pack_completions(turns, "shared_prefix")

    assert pack.members == tuple(range(9))
    assert pack.num_model_tokens == 30 + 3 * (3 * 10 + 2 * 5 - 1)
    with torch.no_grad():
        apart = packed_logprobs(policy, turns, packing="padded")
        together = packed_logprobs(policy, turns, packing="shared_prefix")
    assert max(float((a - b).abs().max()) for a, b in zip(apart, together, strict=True)) < 1e-5


@pytest.mark.parametrize("packing", PACKINGS)
def test_micro_batches_keep_the_budget_and_never_split_a_pack(
    packing: Packing, make_completion: MakeCompletion
) -> None:
    rng = np.random.default_rng(5)
    completions = []
    for _ in range(30):
        shared = prompt(rng, int(rng.integers(1, 40)))
        for _ in range(int(rng.integers(1, 4))):
            completions.append(make_completion(rng, shared, int(rng.integers(1, 20))))
    packs = pack_completions(completions, packing)

    batches = split_packs(packs, 128, packing)

    assert sorted(pack.members for batch in batches for pack in batch) == sorted(pack.members for pack in packs)
    for batch in batches:
        built = build_packed_batch(batch, completions, packing, torch.device("cpu"))
        assert built.input_ids.numel() == batch_tokens(batch, packing)
        assert batch_tokens(batch, packing) <= 128 or len(batch) == 1
    assert max(map(len, batches)) > 1
    if packing != "padded":
        used = sum(batch_tokens(batch, packing) for batch in batches)
        assert len(batches) <= 1.3 * used / 128  # little room is left over


def test_the_head_chunks_long_batches_without_a_seam(
    monkeypatch: pytest.MonkeyPatch, policy: Policy, mixed: list[Completion]
) -> None:
    with torch.no_grad():
        whole = packed_logprobs(policy, mixed, packing="shared_prefix")
        monkeypatch.setattr("grpo_core.training.forward.head.chunks.MIN_CHUNK_TOKENS", 3)
        monkeypatch.setattr("grpo_core.training.forward.head.chunks.MAX_CHUNK_LOGITS", {"cpu": 1})
        chunked = packed_logprobs(policy, mixed, packing="shared_prefix")

    for a, b in zip(whole, chunked, strict=True):
        assert torch.allclose(a, b, atol=1e-6, rtol=0)


OTHERS: dict[str, tuple[Packing, dict[str, Any]]] = {
    "mistral": ("shared_prefix", {"sliding_window": None}),
    "mistral_windows": ("packed", {"sliding_window": 6}),
    "qwen2_moe": (
        "shared_prefix",
        {"moe_intermediate_size": 32, "num_experts": 4, "shared_expert_intermediate_size": 32},
    ),
    "olmo2": ("shared_prefix", {}),
    "gemma3_text": ("packed", {"sliding_window": 6, "sliding_window_pattern": 2}),
    "gpt_oss": ("padded", {"num_local_experts": 4, "sliding_window": 6}),
    "gpt2": ("padded", {"n_embd": 64, "n_layer": 2, "n_head": 4}),
    "mamba": ("padded", {"state_size": 4}),
}


@pytest.fixture(params=OTHERS)
def other_model(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Packing]:
    """A small random model of another architecture, and the layout that it is trained in."""
    packing, settings = OTHERS[request.param]
    save_small_model(request.param.removesuffix("_windows"), tmp_path, **settings)
    return tmp_path, packing


def test_other_architectures_take_the_layout_that_is_exact(
    other_model: tuple[Path, Packing], mixed: list[Completion], plain_logprobs: PlainLogprobs
) -> None:
    folder, packing = other_model
    policy = load_policy(ModelConfig(name=str(folder), device="cpu"), any_architecture=True)
    plain = AutoModelForCausalLM.from_pretrained(folder).eval()

    assert usable_packing(policy.decoder, "shared_prefix") == packing
    with torch.no_grad():
        expected = [plain_logprobs(plain, completion) for completion in mixed]
        for layout in PACKINGS[PACKINGS.index(packing) :]:
            found = packed_logprobs(policy, mixed, packing=usable_packing(policy.decoder, layout))
            assert max(float((a - b).abs().max()) for a, b in zip(found, expected, strict=True)) < 2e-5, layout
    assert usable_packing(policy.decoder, "padded") == "padded"


@pytest.mark.parametrize(
    ("architecture", "setting"),
    [("gemma2", "final_logit_softcapping"), ("granite", "logits_scaling"), ("recurrent_gemma", "logits_soft_cap")],
)
def test_a_model_that_changes_its_logits_is_refused(architecture: str, setting: str) -> None:
    decoder = nn.Module()
    decoder.config = AutoConfig.for_model(architecture, **{setting: 8.0})  # pyright: ignore[reportArgumentType]

    with pytest.raises(ModelError, match=f"'{architecture}': {setting} changes its logits"):
        usable_packing(decoder, "shared_prefix")
