from __future__ import annotations

import numpy as np
import pytest

from grpo_core.training.objective.top_entropy import top_entropy_mask


def test_by_hand() -> None:
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
