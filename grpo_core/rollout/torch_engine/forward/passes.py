"""Runs one pass of the decoder over prompts or rows: in compiled code where possible, else in torch."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from grpo_core.kernels.private_ops import annotation
from grpo_core.rollout.torch_engine.cache.rows import RowBatch
from grpo_core.rollout.torch_engine.draws import open_draws
from grpo_core.rollout.torch_engine.forward.attention_plan import PromptAttention, PromptChunk, RowAttention, plan_pass
from grpo_core.rollout.torch_engine.forward.compiled_decoder import open_native, prompts_pass, rows_pass
from grpo_core.rollout.torch_engine.forward.decoder import apply_head, forward
from grpo_core.rollout.torch_engine.weights.adapters import RowUpdates
from grpo_core.rollout.torch_engine.weights.fused import DecoderWeights
from grpo_core.rollout.torch_engine.weights.products import NativeProducts
from grpo_core.rollout.torch_engine.weights.versions import VersionWeights


class Passes:
    """Computes hidden states [wanted, hidden], normalised for the head, and stores keys and values in the KV cache.

    Without ``native`` everything is computed with torch.
    """

    def __init__(self, base: DecoderWeights, *, native: bool) -> None:
        self._device = base.embedding.device
        self._native = open_native(base) if native else None
        self.compiled_draw = open_draws(self._native.products.crew) if self._native is not None else None

    @property
    def products(self) -> NativeProducts | None:
        """Compiled code that packs weights for the passes; None where torch computes them."""
        return self._native.products if self._native is not None else None

    @property
    def are_exact(self) -> bool:
        """Whether states and logits are batch-invariant: the same bits whatever else is in the pass."""
        return self._native is not None

    def leading(self) -> AbstractContextManager[None]:
        """Within it compiled passes use all threads, and torch one: idle threads of torch would spin on the cores."""
        return self._native.products.crew.leading() if self._native is not None else nullcontext()

    def _in_torch(self) -> AbstractContextManager[None]:
        return self._native.products.crew.torch_leading() if self._native is not None else nullcontext()

    def over_prompts(self, version: VersionWeights, chunks: Sequence[PromptChunk]) -> Tensor:
        """A pass over chunks of prompts, with allocated nodes: the states after the chunks that complete their node."""
        stops = np.cumsum([chunk.num_tokens for chunk in chunks]).tolist()
        ends = [stop - 1 for chunk, stop in zip(chunks, stops, strict=True) if chunk.stop == chunk.node.num_tokens]
        with annotation("prefill"):
            if self._native is not None and version.updates is None:
                return self._native.forward(version.weights, prompts_pass(chunks, ends))
            ids = np.concatenate([chunk.node.tokens[chunk.start : chunk.stop] for chunk in chunks]).astype(np.int64)
            starts = [(chunk.node.start + chunk.start, chunk.num_tokens) for chunk in chunks]
            positions = np.concatenate([np.arange(start, start + num) for start, num in starts])
            with self._in_torch():
                hidden = forward(
                    version.weights,
                    torch.from_numpy(ids).to(self._device),
                    torch.from_numpy(positions).to(self._device),
                    PromptAttention(chunks),
                    [RowUpdates(0, len(ids), version.updates)] if version.updates is not None else [],
                )
            return hidden[torch.tensor(ends, dtype=torch.long, device=self._device)]

    def over_rows(
        self,
        weights: DecoderWeights,
        tokens: Sequence[Sequence[int]],
        batch: RowBatch,
        updates: Sequence[RowUpdates] = (),
        *,
        only_last: bool = False,
    ) -> Tensor:
        """A pass over ``tokens[slot]``, at least one, of every slot of ``batch``: the states after all tokens, or with
        ``only_last`` after the last one of every slot."""
        counts = [len(each) for each in tokens]
        plan = plan_pass(batch, counts)
        ids = [token for each in tokens for token in each]
        wanted = [stop - 1 for stop in accumulate(counts)] if only_last else range(len(ids))
        if self._native is not None and not updates:
            return self._native.forward(weights, rows_pass(ids, batch, plan, wanted))
        attention = RowAttention(batch, plan)
        read = torch.tensor(ids, device=self._device)
        with self._in_torch():
            hidden = forward(weights, read, attention.positions, attention, updates)
        return hidden if len(wanted) == len(ids) else hidden[torch.tensor(wanted, device=self._device)]

    def over_head(self, weights: DecoderWeights, hidden: Tensor, ids: Tensor | None = None) -> Tensor:
        """Logits [B, V] of ``hidden`` [B, hidden]; with ``ids`` [C] those of these ids only, [B, C]."""
        if self._native is not None:
            return self._native.products.logits(weights.head, hidden, ids)
        return apply_head(weights, hidden, ids)
