from __future__ import annotations

import numpy as np
import pytest

from grpo_core.training.objective.normalisation import (
    constant_length_weights,
    sequence_mean_weights,
    token_mean_weights,
)

LENGTHS = np.array([4, 0, 1])  # the middle one has no token with a loss


def test_by_hand() -> None:
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
