from __future__ import annotations

import numpy as np
import pytest
import torch

from grpo_core.training.objective.token_weights import (
    constant_length_weights,
    masked_weights,
    sequence_mean_weights,
    sequence_means,
    sequence_sums,
    token_mean_weights,
    top_entropy_mask,
    truncated_weights,
)

LENGTHS = np.array([4, 0, 1])  # the middle one has no token with a loss


def test_averages_by_hand() -> None:
    assert sequence_mean_weights(LENGTHS)[[0, 2]].tolist() == [1 / 8, 1 / 2]
    assert token_mean_weights(LENGTHS)[[0, 2]].tolist() == [1 / 5, 1 / 5]
    assert constant_length_weights(LENGTHS, 10)[[0, 2]].tolist() == [1 / 20, 1 / 20]


def test_means_are_means() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 9, 20)
    for weights in (sequence_mean_weights(lengths), token_mean_weights(lengths)):
        assert (weights * lengths).sum() == pytest.approx(1)
    assert (constant_length_weights(lengths, 8) * 8).sum() == pytest.approx(1)


def test_without_any_token_nothing_divides_by_zero() -> None:
    nothing = np.array([0, 0])
    for weights in (sequence_mean_weights(nothing), token_mean_weights(nothing), constant_length_weights(nothing, 3)):
        assert np.isfinite(weights).all()


def test_mismatch_weights_by_hand() -> None:
    ratio = torch.tensor([0.0, 0.4, 0.5, 1.0, 5.0, 5.1, float("inf")], dtype=torch.float64)

    assert truncated_weights(ratio, 5.0).tolist() == [0, 0.4, 0.5, 1, 5, 5, 5]
    assert masked_weights(ratio, 0.5, 5.0).tolist() == [0, 0, 0.5, 1, 5, 0, 0]


def test_sequence_sums_and_means_by_hand() -> None:
    values = torch.tensor([1.0, 2.0, 6.0, -4.0, 5.0], dtype=torch.float64)
    sequences = torch.tensor([1, 0, 1, 1, 2])

    assert sequence_sums(values, sequences).tolist() == [3, 2, 3, 3, 5]
    assert sequence_means(values, sequences).tolist() == [1, 2, 1, 1, 5]


def test_no_token_has_no_sums() -> None:
    empty = torch.zeros(0, dtype=torch.float64)

    assert sequence_sums(empty, torch.zeros(0, dtype=torch.int64)).shape == (0,)


def test_gradients_reach_every_token_of_the_sequence() -> None:
    values = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64, requires_grad=True)
    sequence_means(values, torch.tensor([0, 0, 1]))[0].backward()

    assert values.grad is not None
    assert values.grad.tolist() == [0.5, 0.5, 0]


def test_top_entropy_by_hand() -> None:
    entropy = np.array([0.1, 9.0, 0.5, 2.0, 0.3, 1.0])
    is_counted = np.array([True, False, True, True, True, True])  # the highest one is masked already

    assert top_entropy_mask(entropy, is_counted, 1.0).tolist() == is_counted.tolist()
    assert top_entropy_mask(entropy, is_counted, 0.5).tolist() == [False, False, True, True, False, True]
    assert top_entropy_mask(entropy, is_counted, 0.2).tolist() == [False, False, False, True, False, False]


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5, 0.9])
def test_the_share_is_kept(share: float) -> None:
    rng = np.random.default_rng(0)
    entropy, is_counted = rng.random(1000), rng.random(1000) < 0.7

    mask = top_entropy_mask(entropy, is_counted, share)

    assert not (mask & ~is_counted).any()
    assert mask.sum() == pytest.approx(share * is_counted.sum(), abs=1)
    assert entropy[mask].min() > entropy[is_counted & ~mask].max()


def test_nothing_counted_stays_nothing() -> None:
    assert not top_entropy_mask(np.ones(3), np.zeros(3, dtype=np.bool_), 0.5).any()
