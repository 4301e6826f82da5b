"""Each part of a step is in one of the times that the step tells."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest

from grpo_core.rollout.torch_engine.engine import TorchEngine
from grpo_core.training import trainer as trainer_module
from grpo_core.training.distributed.ranks import SingleProcess
from grpo_core.training.forward.head.chunks import Block
from grpo_core.training.metrics import StepSums
from grpo_core.training.nonfinite import FiniteWatch
from grpo_core.training.trainer import Trainer
from grpo_core.types import Batch, StepMetrics

NAP_S = 0.05
TIMES = [each.name for each in fields(StepMetrics) if each.name.endswith("_ms")]
PARTS = [
    (trainer_module, "check_batch", "layout_ms"),
    (trainer_module, "select_groups", "layout_ms"),
    (trainer_module, "sequence_advantages", "layout_ms"),
    (trainer_module, "split_batch", "layout_ms"),
    (trainer_module, "find_logprobs", "scoring_ms"),
    (trainer_module, "score_chosen", "loss_forward_ms"),
    (Block, "to_states", "backward_ms"),  # the head's gradient: computed beside its logits
    (SingleProcess, "add_up_gradients", "gradient_sum_ms"),
    (FiniteWatch, "add", "sums_ms"),
    (StepSums, "add", "sums_ms"),
    (StepSums, "add_up", "sums_ms"),
    (trainer_module, "step_metrics", "sums_ms"),
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
    start = time.perf_counter()
    step = trainer.step(batch)
    step_ms = (time.perf_counter() - start) * 1e3
    assert getattr(step, field) >= NAP_S * 1e3
    assert sum(getattr(step, name) for name in TIMES) <= step_ms  # no time is told twice
