from __future__ import annotations

import torch

from grpo_core.training.objective.mismatch import masked_weights, truncated_weights


def test_by_hand() -> None:
    ratio = torch.tensor([0.0, 0.4, 0.5, 1.0, 5.0, 5.1, float("inf")], dtype=torch.float64)

    assert truncated_weights(ratio, 5.0).tolist() == [0, 0.4, 0.5, 1, 5, 5, 5]
    assert masked_weights(ratio, 0.5, 5.0).tolist() == [0, 0, 0.5, 1, 5, 0, 0]
