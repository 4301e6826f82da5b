"""Log-probabilities of finished completions under the base model: teacher-forced, siblings share the prompt's pass."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from grpo_core.errors import GrpoError
from grpo_core.kernels.private_ops import annotation
from grpo_core.rollout.sequence import SequenceState, own_error
from grpo_core.rollout.torch_engine.admission import Admission, Prefill
from grpo_core.rollout.torch_engine.cache.prefix_cache import PrefixCache, PrefixNode
from grpo_core.rollout.torch_engine.cache.rows import Row, RowBatch, max_slot_tokens, plan_rows, rounded_tokens
from grpo_core.rollout.torch_engine.forward.passes import Passes
from grpo_core.rollout.torch_engine.prefill import is_prefilled, next_chunks, read_chunks
from grpo_core.rollout.torch_engine.weights.fused import DecoderWeights
from grpo_core.rollout.torch_engine.weights.versions import VersionWeights
from grpo_core.types import Float32, PackedIds, unpack_ids

HEAD_CHUNK_TOKENS = 1024


class ReferenceScorer:
    """Scores with the base weights. Its prompts are cached as those of version 0."""

    def __init__(self, base: DecoderWeights, cache: PrefixCache, passes: Passes, max_tokens: int) -> None:
        self._base = base
        self._cache = cache
        self._passes = passes
        self._device = base.embedding.device
        self._max_tokens = max_tokens
        self.num_tokens = 0  # that this object has sent through the model

    def score(self, sequences: Sequence[SequenceState], admission: Admission) -> list[Float32 | GrpoError]:
        """Log-probabilities [R] of the tokens of finished ``sequences``, same temperature and support; 0 where forced.

        Only of the first ones, as many as ``admission`` has room for now. In the place of one that cannot be scored is
        its error.
        """
        leaves: list[PrefixNode] = []
        for sequence in sequences:
            leaf = admission.acquire(0, sequence.request.prompt_ids)
            if leaf is None:
                break
            leaves.append(leaf)
        try:
            parts = self._fitting(list(zip(sequences, leaves, strict=False)), admission)
            num_fitting = parts[-1].stop if parts else 0
            for leaf in leaves[num_fitting:]:
                self._cache.release(leaf)
            del leaves[num_fitting:]
            while not all(map(is_prefilled, leaves)):
                chunks = next_chunks(leaves, self._max_tokens)
                read_chunks(chunks, VersionWeights(self._base, None), self._cache, self._passes)
                self.num_tokens += sum(chunk.num_tokens for chunk in chunks)
            return [score for part in parts for score in self._score_part(sequences[part], leaves[part])]
        finally:
            for leaf in leaves:
                self._cache.release(leaf)

    def _fitting(self, pairs: Sequence[Prefill], admission: Admission) -> list[slice]:
        """The first parts of ``pairs`` of which all prompts, and the slots of the largest part, fit together."""
        fitting: list[slice] = []
        seen: set[PrefixNode] = set()
        slots = 0
        for whole in self._parts([sequence for sequence, _ in pairs]):
            part = whole
            while part.stop > part.start:
                nodes = seen.union(*(leaf.path() for _, leaf in pairs[part]))
                most = max(slots, self._slot_bytes(pairs[part]))
                needed = self._cache.missing_bytes(nodes) + most
                if needed <= admission.make_bytes(needed):
                    fitting.append(part)
                    seen, slots = nodes, most
                    break
                part = slice(part.start, part.start + (part.stop - part.start) // 2)
            if part.stop < whole.stop:
                break
        return fitting

    def _slot_bytes(self, pairs: Sequence[Prefill]) -> int:
        return len(pairs) * rounded_tokens(max_slot_tokens(pairs)) * self._cache.bytes_per_token

    def _parts(self, sequences: Sequence[SequenceState]) -> list[slice]:
        """Slices of at most ``max_tokens`` tokens together, with at least one sequence each."""
        parts: list[slice] = []
        start, num_tokens = 0, 0
        for index, sequence in enumerate(sequences):
            if index > start and num_tokens + len(sequence.tokens) > self._max_tokens:
                parts.append(slice(start, index))
                start, num_tokens = index, 0
            num_tokens += len(sequence.tokens)
        return [*parts, slice(start, len(sequences))] if sequences else []

    def _score_part(
        self, sequences: Sequence[SequenceState], leaves: Sequence[PrefixNode]
    ) -> list[Float32 | GrpoError]:
        rows = plan_rows(list(zip(sequences, leaves, strict=True)))
        batch = RowBatch(self._base)
        batch.add(rows)
        slots = [row for row in batch.rows if row is not None]
        assert len(slots) == len(batch.rows), "a new batch has no free slots"
        with annotation("score"):
            states = self._read(batch, slots)
        scores = {row.sequence: self._own_logprobs(row.sequence, states[row]) for row in rows}
        return [scores[sequence] for sequence in sequences]

    def _own_logprobs(self, sequence: SequenceState, states: Tensor) -> Float32 | GrpoError:
        try:
            return self._logprobs(sequence, states)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever it is: the other sequences have their scores
            return own_error(error, "scoring it")

    def _read(self, batch: RowBatch, rows: Sequence[Row]) -> dict[Row, Tensor]:
        """The hidden states [R, hidden] that predict each row's tokens."""
        # The last token predicts nothing, so it is left out, except of a row that has no other token.
        inputs = [row.sequence.tokens[: max(1, len(row.sequence.tokens) - 1)] for row in rows]
        hidden = self._passes.over_rows(self._base, inputs, batch)
        self.num_tokens += len(hidden)
        states: dict[Row, Tensor] = {}
        first = 0
        for row, each in zip(rows, inputs, strict=True):
            end = row.leaf.end_hidden
            assert end is not None
            states[row] = torch.cat([end[None], hidden[first : first + len(each)]])[: len(row.sequence.tokens)]
            first += len(each)
        return states

    def _logprobs(self, sequence: SequenceState, states: Tensor) -> Float32:
        result = np.zeros(len(sequence.tokens), dtype=np.float32)
        chosen = [place for place, forced in enumerate(sequence.forced) if not forced]
        for start in range(0, len(chosen), HEAD_CHUNK_TOKENS):
            places = chosen[start : start + HEAD_CHUNK_TOKENS]
            logits = self._passes.over_head(self._base, states[torch.tensor(places, device=self._device)]).float()
            logits = logits / sequence.request.sampling.temperature
            supports = [sequence.supports[place] for place in places]
            if supports[0] is not None:
                logits = logits + _outside(supports, logits)
            targets = torch.tensor([sequence.tokens[place] for place in places], device=self._device)
            scores = logits.log_softmax(dim=-1).gather(-1, targets[:, None])[:, 0]
            result[places] = scores.cpu().numpy()
        return result


def _outside(supports: Sequence[PackedIds | None], like: Tensor) -> Tensor:
    """0 inside each token's support, -inf outside: [tokens, V]."""
    mask = torch.full(like.shape, float("-inf"))
    for row, support in enumerate(supports):
        assert support is not None
        mask[row, torch.from_numpy(unpack_ids(support).astype(np.int64))] = 0.0
    return mask.to(like.device)
