from __future__ import annotations

import torch

from grpo_core.training.objective.sequence import sequence_means, sequence_sums


def test_by_hand() -> None:
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
