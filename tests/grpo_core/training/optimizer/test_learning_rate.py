from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR

from grpo_core.config import TrainingConfig
from grpo_core.errors import ConfigError
from grpo_core.rollout.torch_engine.engine import TorchEngine
from grpo_core.training.optimizer.learning_rate import LearningRateSchedule
from grpo_core.training.trainer import Trainer
from grpo_core.types import Batch

RATE = 0.02


def torch_rates(course: str, num_warmup: int, num_steps: int) -> list[float]:
    """The rates of torch's own schedulers."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=RATE)
    falling = num_steps - num_warmup
    schedule: LRScheduler = {
        "constant": lambda: ConstantLR(optimizer, factor=1.0),
        "linear": lambda: LinearLR(optimizer, 1.0, 0.0, total_iters=falling),
        "cosine": lambda: CosineAnnealingLR(optimizer, T_max=falling),
    }[course]()
    if num_warmup:
        rising = LinearLR(optimizer, 1 / num_warmup, 1.0, total_iters=max(num_warmup - 1, 1))
        schedule = SequentialLR(optimizer, [rising, schedule], milestones=[num_warmup])
    found = []
    for _ in range(num_steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize("course", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("num_warmup", [0, 1, 4])
@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step:UserWarning")  # SequentialLR's own
def test_the_rates_are_those_of_torchs_schedulers(course: str, num_warmup: int) -> None:
    config = TrainingConfig.model_validate({"learning_rate_schedule": course, "warmup_steps": num_warmup})
    schedule = LearningRateSchedule(config, 20)

    assert [RATE * schedule.share(index) for index in range(20)] == pytest.approx(
        torch_rates(course, num_warmup, 20), rel=1e-9
    )


def test_no_step_of_the_run_has_a_rate_of_0() -> None:
    for course in ("constant", "linear", "cosine"):
        config = TrainingConfig.model_validate({"learning_rate_schedule": course, "warmup_steps": 5})
        assert all(LearningRateSchedule(config, 20).share(index) > 0 for index in range(20))
        assert LearningRateSchedule(config, 20).share(25) == (1.0 if course == "constant" else 0.0)


def test_a_rate_that_falls_needs_the_end_of_the_run() -> None:
    with pytest.raises(ConfigError, match="'cosine': to which step"):
        LearningRateSchedule(TrainingConfig(learning_rate_schedule="cosine"), None)


def test_steps_take_and_report_their_rate(
    make_trainer: Callable[..., Trainer], make_engine: Callable[..., TorchEngine], sample_batch: Callable[..., Batch]
) -> None:
    trainer = make_trainer(learning_rate=RATE, learning_rate_schedule="linear", warmup_steps=2, num_steps=4)
    batch = sample_batch(make_engine(), 0, num_groups=1)
    taken: list[float] = []
    trainer.optimizer.register_step_pre_hook(lambda optimizer, *given: taken.append(optimizer.param_groups[0]["lr"]))
    reported = [trainer.step(batch).learning_rate for _ in range(4)]

    assert taken == reported == pytest.approx([RATE / 2, RATE, RATE, RATE / 2])
