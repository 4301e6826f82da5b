"""Epochs: every row once, in an order that only the seed and the place decide."""

from __future__ import annotations

import pytest

from grpo_core.environments.dataset.order import RowOrder


def taken(order: RowOrder, num_batches: int, seed: int = 0) -> list[int]:
    return [order.row(seed, index, group, 0) for index in range(num_batches) for group in range(order.num_groups)]


@pytest.mark.parametrize("shuffle", [True, False])
def test_every_epoch_has_every_row_once_also_across_batches(shuffle: bool) -> None:
    rows = taken(RowOrder(num_rows=7, num_groups=3, shuffle=shuffle), 14)  # 42 places: six epochs
    epochs = [rows[start : start + 7] for start in range(0, 42, 7)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == (6 if shuffle else 1)


def test_the_seed_decides_the_order() -> None:
    order = RowOrder(num_rows=50, num_groups=5, shuffle=True)
    assert taken(order, 10) == taken(order, 10)
    assert taken(order, 10) != taken(order, 10, seed=1)


def test_a_refill_takes_other_rows_and_leaves_the_epochs_alone() -> None:
    order = RowOrder(num_rows=1000, num_groups=5, shuffle=True)
    drawn = {order.row(0, 3, 2, refill) for refill in range(1, 20)}
    assert len(drawn) > 15
    assert all(0 <= row < 1000 for row in drawn)
