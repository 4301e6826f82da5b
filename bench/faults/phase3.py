"""Faults that phase 3 must detect: repeated or misplaced work, and a packing with wrong results."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest

from bench.faults.fault import WRONG_ANSWERS, Fault

if TYPE_CHECKING:
    from torch import Tensor, nn

    from grpo_core.config import ModelConfig
    from grpo_core.training.forward.head.chosen import TokenScores
    from grpo_core.training.forward.packing import Pack, PackedBatch
    from grpo_core.training.forward.tree_attention import TreePlan
    from grpo_core.types import Completion, Packing

LONG_TOKENS = 256


def reference_forward(patch: pytest.MonkeyPatch) -> None:
    """The loss computes the reference's log-probabilities itself, in a second forward pass."""
    import torch

    from grpo_core.training import trainer

    original = trainer.score_chosen

    def score_chosen(decoder: nn.Module, head: nn.Module, batch: PackedBatch, **options: Any) -> TokenScores:
        with torch.no_grad():
            original(decoder, head, batch)
        return original(decoder, head, batch, **options)

    patch.setattr(trainer, "score_chosen", score_chosen)


def models_nobody_counts(patch: pytest.MonkeyPatch) -> None:
    """Old and reference log-probabilities are computed in the step, on models without a forward-pass counter."""
    import torch

    from grpo_core.training import trainer

    original = trainer.score_chosen

    class Uncounted(torch.nn.Module):
        """Past the hook that counts."""

        def __init__(self, decoder: Any) -> None:
            super().__init__()
            self.config: Any = decoder.config
            self.forward: Any = decoder.forward

    def score_chosen(decoder: Any, head: nn.Module, batch: PackedBatch, **options: Any) -> TokenScores:
        with torch.no_grad():
            for _ in ("old", "reference"):
                original(Uncounted(decoder), head, batch)
        return original(decoder, head, batch, **options)

    patch.setattr(trainer, "score_chosen", score_chosen)


def layers_run_twice(patch: pytest.MonkeyPatch) -> None:
    """A second pass begins behind the embedding, so that nothing counts it: a probe of the hidden states."""
    import torch

    from grpo_core.training.forward import packing

    original = packing.forward_hidden

    def forward_hidden(decoder: Any, input_ids: Tensor, position_ids: Tensor | None, plan: Any) -> Tensor:
        with torch.no_grad():
            states = decoder.embed_tokens.weight[input_ids]
            decoder.forward(inputs_embeds=states, position_ids=position_ids, use_cache=False)
        return original(decoder, input_ids, position_ids, plan)

    patch.setattr(packing, "forward_hidden", forward_hidden)


def activations_recomputed(patch: pytest.MonkeyPatch) -> None:
    """Gradient checkpointing is on: the backward pass runs every layer forward again."""
    from grpo_core.training.tuning import lora

    original = lora.attach_lora

    def attach_lora(policy: Any, config: ModelConfig, seed: int) -> nn.Module:
        model = original(policy, config, seed)
        policy.model.gradient_checkpointing_enable({"use_reentrant": False})
        for layer in policy.decoder.layers:
            layer.train()  # checkpointing needs train mode; there is no dropout
        return model

    patch.setattr(lora, "attach_lora", attach_lora)


def tokenizer_in_the_step(patch: pytest.MonkeyPatch) -> None:
    """A step decodes its completions, for a log."""
    from grpo_core.model.tokenizer import load_tokenizer
    from grpo_core.training.batches import micro_batches

    original = micro_batches.pack_completions
    tokenizer = functools.cache(load_tokenizer)

    def pack_completions(completions: Sequence[Completion], packing: Packing) -> list[Pack]:
        for completion in completions:
            tokenizer("tiny").decode(completion.completion_ids)
        return original(completions, packing)

    patch.setattr(micro_batches, "pack_completions", pack_completions)


def prefix_not_shared(patch: pytest.MonkeyPatch) -> None:
    """Completions of a group no longer share one prompt: each has its own copy."""
    from grpo_core.training.batches import micro_batches

    original = micro_batches.usable_packing

    def usable_packing(decoder: nn.Module, wanted: Packing) -> Packing:
        return original(decoder, "packed" if wanted == "shared_prefix" else wanted)

    patch.setattr(micro_batches, "usable_packing", usable_packing)


def siblings_see_each_other(patch: pytest.MonkeyPatch) -> None:
    """The mask of a long pack is plain causal: a completion attends to its siblings before it. The probe that compares
    layouts when a model is loaded has short packs, and takes another layout where those are wrong."""
    from torch.nn import functional as F

    from grpo_core.training.forward import tree_attention

    original = tree_attention.TreePlan.attend

    def attend(self: TreePlan, layer: int, queries: Tensor, keys: Tensor, values: Tensor, scaling: float) -> Tensor:
        if keys.shape[2] < LONG_TOKENS:
            return original(self, layer, queries, keys, values, scaling)
        output = F.scaled_dot_product_attention(
            queries, keys, values, is_causal=True, scale=scaling, enable_gqa=queries.shape[1] != keys.shape[1]
        )
        return output.transpose(1, 2)

    patch.setattr(tree_attention.TreePlan, "attend", attend)


FAULTS = (
    Fault(3, ("forward_passes_per_micro_batch",), reference_forward),
    Fault(3, ("forward_passes_per_micro_batch",), models_nobody_counts),
    Fault(3, ("forward_over_backward",), layers_run_twice),
    Fault(3, ("forward_over_backward",), activations_recomputed),
    Fault(3, ("tokenizer_calls",), tokenizer_in_the_step),
    Fault(3, ("shared_prefix_speedup",), prefix_not_shared),
    Fault(3, ("shared_prefix_speedup",), siblings_see_each_other, WRONG_ANSWERS),
)
