"""Chunked prefill: computes the uncached parts of prompts in passes of bounded size, and shared prefixes once."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from grpo_core.rollout.torch_engine.cache.prefix_cache import PrefixCache, PrefixNode
from grpo_core.rollout.torch_engine.forward.attention_plan import PromptChunk
from grpo_core.rollout.torch_engine.forward.passes import Passes
from grpo_core.rollout.torch_engine.weights.versions import VersionWeights


def is_prefilled(leaf: PrefixNode) -> bool:
    """Whether the prompt that ends at ``leaf`` is computed."""
    return leaf.end_hidden is not None and all(node.is_ready for node in leaf.path())


def next_chunks(leaves: Sequence[PrefixNode], max_tokens: int) -> list[PromptChunk]:
    """The next chunks of the prompts that end at ``leaves``: at most ``max_tokens``, earlier prompts first."""
    chunks: list[PromptChunk] = []
    planned: dict[PrefixNode, int] = {}  # tokens that are ready once the chunks so far are computed
    left = max_tokens
    for leaf in dict.fromkeys(leaves):
        before: list[PrefixNode] = []
        for node in leaf.path():
            ready = planned.get(node, node.num_ready)
            stop = min(node.num_tokens, ready + left)
            if stop > ready:
                # Nodes before it may be part of the same pass: keys are stored layer by layer, in order.
                chunks.append(PromptChunk(node, list(before), ready, stop))
                left -= stop - ready
            planned[node] = max(ready, stop)
            if planned[node] < node.num_tokens:
                return chunks
            before.append(node)
        if leaf.end_hidden is None and leaf.is_ready and leaf not in planned_ends(chunks) and left > 0:
            # A longer prompt computed these keys, but did not keep the hidden state after this token.
            chunks.append(PromptChunk(leaf, before[:-1], leaf.num_tokens - 1, leaf.num_tokens, keep=False))
            left -= 1
        if left <= 0:
            return chunks
    return chunks


def planned_ends(chunks: Sequence[PromptChunk]) -> set[PrefixNode]:
    return {chunk.node for chunk in chunks if chunk.stop == chunk.node.num_tokens}


def read_chunks(chunks: Sequence[PromptChunk], version: VersionWeights, cache: PrefixCache, passes: Passes) -> None:
    """Compute ``chunks`` in one pass."""
    for chunk in chunks:
        cache.allocate(chunk.node)
    _mark_ready(chunks, passes.over_prompts(version, chunks))


def _mark_ready(chunks: Sequence[PromptChunk], ends: Tensor) -> None:
    """``ends`` are the hidden states after the chunks that complete their node."""
    states = iter(ends)
    for chunk in chunks:
        chunk.node.num_ready = max(chunk.node.num_ready, chunk.stop)
        if chunk.stop == chunk.node.num_tokens:
            chunk.node.end_hidden = next(states).clone()
