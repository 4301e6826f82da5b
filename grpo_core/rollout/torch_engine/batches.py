"""All rows under way. Those that run with the same weights are one batch, and take their steps in one pass."""

from __future__ import annotations

from collections.abc import Iterator

from grpo_core.rollout.torch_engine.rows import Row, RowBatch
from grpo_core.rollout.torch_engine.weights import DecoderWeights


class RowBatches:
    def __init__(self) -> None:
        self._batches: list[RowBatch] = []

    def __iter__(self) -> Iterator[RowBatch]:
        return iter(tuple(self._batches))

    def of(self, weights: DecoderWeights) -> RowBatch:
        """The batch that runs with ``weights``."""
        for batch in self._batches:
            if batch.weights is weights:
                return batch
        self._batches.append(RowBatch(weights))
        return self._batches[-1]

    def move(self, before: DecoderWeights, after: DecoderWeights) -> None:
        """Let the rows that run with ``before`` go on with ``after``."""
        if after is not before:
            self.of(after).take_from(self.of(before))

    def tidy(self) -> None:
        """Let the weights go that no row needs."""
        self._batches = [batch for batch in self._batches if batch.rows]

    @property
    def num_rows(self) -> int:
        return sum(batch.num_rows for batch in self._batches)

    @property
    def rows(self) -> list[Row]:
        return [row for batch in self._batches for row in batch.rows if row is not None]
