"""Each part of a step is in one of the times that the step tells."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from grpo_core.rollout.torch_engine.engine import TorchEngine
from grpo_core.training import trainer as trainer_module
from grpo_core.training.metrics import StepSums
from grpo_core.training.nonfinite import FiniteWatch
from grpo_core.training.ranks import SingleProcess
from grpo_core.training.trainer import Trainer
from grpo_core.types import Batch

NAP_S = 0.05
PARTS = [
    (trainer_module, "check_batch", "layout_ms"),
    (trainer_module, "select_groups", "layout_ms"),
    (trainer_module, "sequence_advantages", "layout_ms"),
    (trainer_module, "split_batch", "layout_ms"),
    (trainer_module, "find_logprobs", "scoring_ms"),
    (trainer_module, "score_chosen", "loss_forward_ms"),
    (SingleProcess, "add_up_gradients", "gradient_sum_ms"),
    (FiniteWatch, "add", "sums_ms"),
    (StepSums, "add", "sums_ms"),
    (StepSums, "add_up", "sums_ms"),
]


@pytest.mark.parametrize(("owner", "name", "field"), PARTS, ids=[name for _, name, _ in PARTS])
def test_a_part_that_takes_longer_is_told(
    owner: Any,
    name: str,
    field: str,
    make_trainer: Callable[..., Trainer],
    make_engine: Callable[..., TorchEngine],
    sample_batch: Callable[..., Batch],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batch, trainer, original = sample_batch(make_engine(), 1), make_trainer(), getattr(owner, name)

    def slow(*given: Any, **named: Any) -> Any:
        time.sleep(NAP_S)
        return original(*given, **named)

    monkeypatch.setattr(owner, name, slow)
    assert getattr(trainer.step(batch), field) >= NAP_S * 1e3
