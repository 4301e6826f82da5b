"""Sequences that decode: how they get their slots, and the pass that gives each its next tokens."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from grpo_core.errors import GrpoError
from grpo_core.kernels.private_ops import annotation
from grpo_core.ledger import spans
from grpo_core.rollout.torch_engine.admission import Admission, Prefill
from grpo_core.rollout.torch_engine.cache.row_batches import RowBatches
from grpo_core.rollout.torch_engine.cache.rows import Row, RowBatch, plan_rows
from grpo_core.rollout.torch_engine.capacity import no_room, out_of_memory
from grpo_core.rollout.torch_engine.finished import Finished
from grpo_core.rollout.torch_engine.forward.passes import Passes
from grpo_core.rollout.torch_engine.requests import Requests
from grpo_core.rollout.torch_engine.sampler import sample_tokens
from grpo_core.rollout.torch_engine.weights.adapters import RowUpdates
from grpo_core.rollout.torch_engine.weights.fused import DecoderWeights
from grpo_core.rollout.torch_engine.weights.versions import Versions


class Decoding:
    """The running sequences, in ``batches`` of one version's weights each. What ends goes to ``finished``."""

    def __init__(
        self,
        passes: Passes,
        versions: Versions,
        batches: RowBatches,
        admission: Admission,
        requests: Requests,
        finished: Finished,
        *,
        jump_forward: bool,
    ) -> None:
        self._passes = passes
        self._versions = versions
        self._batches = batches
        self._admission = admission
        self._requests = requests
        self._finished = finished
        self._jump_forward = jump_forward
        self._device = versions.base.embedding.device

    def join(self, ready: Sequence[Prefill]) -> None:
        """Draw the first tokens, and give the sequences that are not finished a slot."""
        rows = plan_rows(ready)
        rows.sort(key=lambda row: row.sequence.policy_version)
        for version, group in itertools.groupby(rows, key=lambda row: row.sequence.policy_version):
            self._begin(list(group), self._versions.weights_of(version).weights)

    def _begin(self, rows: Sequence[Row], weights: DecoderWeights) -> None:
        num_placed, batch = self._place(rows, weights)
        if batch is None and not self._batches.num_rows and not self._admission.prefilling:
            first = rows[0].sequence  # no other request will free room for it
            self._requests.fail(first, rows[0].leaf, no_room(first, "decoding"))
            rows = rows[1:]
        self._admission.prefilling[:0] = [(row.sequence, row.leaf) for row in rows[num_placed:]]  # until others end
        if batch is None:
            return
        rows = rows[:num_placed]
        ends = [row.leaf.end_hidden for row in rows]
        self._sample(weights, rows, torch.stack([end for end in ends if end is not None]))
        going_on = [row for row in rows if row.sequence.finish_reason is None and row.sequence.pending]
        for row in rows:
            if row.sequence.finish_reason is not None:
                self._finished.add(row.sequence, row.leaf)
        if not going_on:
            return
        try:
            batch.add(going_on)
        except torch.OutOfMemoryError as cause:
            for row in going_on:
                self._requests.fail(row.sequence, row.leaf, out_of_memory(row.sequence, "joining the batch", cause))

    def _place(self, rows: Sequence[Row], weights: DecoderWeights) -> tuple[int, RowBatch | None]:
        """How many of ``rows`` have room now, and in which batch."""
        for num_placed in range(len(rows), 0, -1):
            first, free_bytes = rows[:num_placed], self._admission.free_bytes
            batch = self._batches.place_for(first, weights, free_bytes)
            if batch is None:
                needed = RowBatch(weights).added_bytes(first)
                batch = self._batches.place_for(first, weights, self._admission.make_bytes(needed))
            if batch is not None:
                return num_placed, batch
        return 0, None

    def advance(self, batch: RowBatch) -> None:
        """One forward pass: every row's pending tokens, then its next ones."""
        tokens = [
            row.sequence.pending if row is not None else [0] for row in batch.rows
        ]  # a dummy token for free slots
        counts = [len(each) for each in tokens]
        updates = self._row_updates(batch, counts) if batch.weights is self._versions.base else []
        try:
            with annotation("decode"):
                hidden = self._passes.over_rows(
                    batch.weights, tokens, batch, updates, only_last=True
                )  # [slots, hidden]
        except torch.OutOfMemoryError as cause:
            for row in [row for row in batch.rows if row is not None]:
                self._fail_row(row, out_of_memory(row.sequence, "decoding", cause))
            batch.compact()
            return
        self._requests.count(
            num_decode_steps=1, num_decode_rows=batch.num_rows, kv_share_steps=self._admission.used_share
        )
        used = [(slot, row) for slot, row in enumerate(batch.rows) if row is not None]
        for slot, row in used:
            row.num_own += counts[slot]
            row.sequence.pending.clear()
        rows = [row for _, row in used]
        slots = torch.tensor([slot for slot, _ in used], device=self._device)
        self._sample(batch.weights, rows, hidden if len(rows) == len(hidden) else hidden[slots])
        for row in rows:
            if row.sequence.finish_reason is not None:
                batch.remove(row)
                self._finished.add(row.sequence, row.leaf)
        batch.compact()

    def _row_updates(self, batch: RowBatch, counts: Sequence[int]) -> list[RowUpdates]:
        """The low-rank updates by rows; adjacent rows of one version share an entry."""
        result: list[RowUpdates] = []
        first = 0
        for row, count in zip(batch.rows, counts, strict=True):
            # Also the active version: rows that started when it was active before run here, on base weights.
            updates = self._versions.beside(row.sequence.policy_version).updates if row is not None else None
            if updates:
                if result and result[-1].stop == first and result[-1].updates is updates:
                    result[-1] = RowUpdates(result[-1].start, first + count, updates)
                else:
                    result.append(RowUpdates(first, first + count, updates))
            first += count
        return result

    def _sample(self, weights: DecoderWeights, rows: Sequence[Row], hidden: Tensor) -> None:
        """Sample the next tokens of every row. A row that cannot be sampled ends with its error."""
        sequences = [row.sequence for row in rows]
        with annotation("sample"), spans.DRAW:
            errors = sample_tokens(self._passes, weights, sequences, hidden, jump_forward=self._jump_forward)
        for row in rows:
            error = errors.get(row.sequence)
            if error is not None:
                self._fail_row(row, error)

    def _fail_row(self, row: Row, error: GrpoError) -> None:
        for batch in self._batches:
            if row in batch.rows:
                batch.wipe(row)
                batch.remove(row)
        row.sequence.pending.clear()
        self._requests.fail(row.sequence, row.leaf, error)
