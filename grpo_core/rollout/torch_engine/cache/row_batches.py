"""All rows that decode, in batches of the same weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from grpo_core.rollout.torch_engine.cache.rows import Row, RowBatch
from grpo_core.rollout.torch_engine.weights.fused import DecoderWeights


class RowBatches:
    """All running rows. Those with the same weights decode in one pass, in one batch, unless memory is short: then new
    rows get a batch of their own beside the full one, which takes no copy of it."""

    def __init__(self) -> None:
        self._batches: list[RowBatch] = []

    def __iter__(self) -> Iterator[RowBatch]:
        return iter(tuple(self._batches))

    def place_for(self, rows: Sequence[Row], weights: DecoderWeights, free_bytes: int) -> RowBatch | None:
        """A batch that runs with ``weights``, to which ``rows`` can be added within ``free_bytes``; None without."""
        here = [batch for batch in self._batches if batch.weights is weights]
        for batch in [*here, RowBatch(weights)]:
            if batch.added_bytes(rows) <= free_bytes:
                if batch not in self._batches:
                    self._batches.append(batch)
                return batch
        return None

    def move(self, before: DecoderWeights, after: DecoderWeights) -> None:
        """Continue the rows of ``before`` with the weights ``after``."""
        for batch in self._batches:
            if batch.weights is before:
                batch.weights = after

    def tidy(self, free_bytes: int) -> None:
        """Drop empty batches, and so the references to their weights; join those of the same weights that fit."""
        self._batches = [batch for batch in self._batches if batch.num_rows]
        for batch in tuple(self._batches):
            rows = [row for row in batch.rows if row is not None]
            others = [other for other in self._batches if other is not batch and other.weights is batch.weights]
            other = next((other for other in others if other.added_bytes(rows) <= free_bytes), None)
            if other is not None:
                other.take_from(batch)
                self._batches.remove(batch)
                return  # one at a time: what is free now has changed

    @property
    def num_rows(self) -> int:
        return sum(batch.num_rows for batch in self._batches)

    @property
    def rows(self) -> list[Row]:
        return [row for batch in self._batches for row in batch.rows if row is not None]
