"""What a system tells instead of a number is refused where it is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from pytest_grpo.systems.protocol import AdapterSwap, Rollout, TrainStep
from tests.pytest_grpo.systems.test_event_file import RECORD

STEP = TrainStep(0.5, 1.0, 1.0, 1.0, 1, 1, 0, 4, ())


@pytest.mark.parametrize(
    ("tell", "line"),
    [
        (lambda: replace(STEP, loss="0.5"), "TrainStep.loss is '0.5': give a number of Python or numpy"),
        (lambda: replace(STEP, grad_norm=None), "TrainStep.grad_norm is None: give a number"),
        (lambda: replace(STEP, loss=torch.tensor(0.5)), r"TrainStep.loss is tensor\(0.5000\): give a number"),
        (lambda: replace(STEP, num_loss_tokens=4.0), "TrainStep.num_loss_tokens is 4.0: give a whole number"),
        (lambda: replace(RECORD, reward_mean=[1.0]), r"StepRecord.reward_mean is \[1.0\]: give a number"),
        (lambda: AdapterSwap(True, "1", 0.0), "AdapterSwap.load_ms is '1': give a number"),  # type: ignore[arg-type]
        (lambda: Rollout((), None), "Rollout.seconds is None: give a number"),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_number_is_named(tell: Callable[[], Any], line: str) -> None:
    with pytest.raises(TypeError, match=line) as raised:
        tell()
    assert "\n" not in str(raised.value)


def test_numbers_of_numpy_are_numbers() -> None:
    step = replace(STEP, loss=np.float32(0.5), num_loss_tokens=np.int64(4), grad_norm=float("nan"))
    assert step.num_loss_tokens == 4
