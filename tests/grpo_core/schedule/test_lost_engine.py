"""An engine that dies amid a run costs no step: what was done is saved, and a resumed run goes on from there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from grpo_core.config import EnvironmentConfig, build_config
from grpo_core.environments.arithmetic import ArithmeticEnvironment
from grpo_core.errors import EngineError
from grpo_core.home import Home
from grpo_core.rollout.episode import EpisodeFailure
from grpo_core.rollout.protocol import AdapterSwap
from grpo_core.schedule.loop import StepReport, train
from grpo_core.schedule.stack import BatchCollector, Stack, build_stack
from grpo_core.telemetry.events import Telemetry
from grpo_core.types import Batch


class Chatty(ArithmeticEnvironment):
    """Pays for long answers, which a random policy can give, unlike right ones."""

    def step(self, actions: Mapping[str, str]) -> None:
        super().step(actions)
        self._reward = float(len(actions["solver"]))


def chatty(config: EnvironmentConfig) -> Chatty:
    return Chatty()


@dataclass(frozen=True)
class Dying:
    """A collector whose engine dies when it plays batch ``last``."""

    collector: BatchCollector
    last: int

    @property
    def failures(self) -> Sequence[EpisodeFailure]:
        return self.collector.failures

    def use_version(self, number: int) -> AdapterSwap:
        return self.collector.use_version(number)

    def collect(self, index: int) -> Batch:
        if index == self.last:
            raise EngineError("the engine has died")
        return self.collector.collect(index)


@pytest.mark.parametrize("lag", [0, 1])
def test_no_step_is_lost_with_the_engine(lag: int, model_folder: Path, tmp_path: Path) -> None:
    def make_stack(home: str) -> Stack:
        config = build_config(
            {
                "model": {"name": str(model_folder), "device": "cpu", "lora_rank": 4},
                "environment": {"name": f"{__name__}:chatty"},
                "rollout": {"num_groups": 2, "group_size": 2, "max_completion_tokens": 8},
                "training": {"learning_rate": 0.01, "kl_coefficient": 0.01},
                "schedule": {"num_steps": 5, "max_policy_lag_steps": lag, "torch_threads": 1},
            }
        )
        return build_stack(config, Home(tmp_path / home / "data", tmp_path / home / "traces"))

    telemetry = Telemetry("run", [])
    whole = train(make_stack("whole"), telemetry).reports
    reports: list[StepReport] = []
    stack = make_stack("home")

    with pytest.raises(EngineError, match="the engine has died"):
        train(replace(stack, collector=Dying(stack.collector, last=3)), telemetry, on_step=reports.append)

    num_done = len(reports)
    assert num_done >= 3 - lag  # the error may overtake a batch that waits
    assert [path.name for path in stack.checkpoint_folder.iterdir()] == [f"step-{num_done:06d}"]
    reports += train(make_stack("home"), telemetry, resume=True).reports
    assert [report.metrics.step for report in reports] == [1, 2, 3, 4, 5]
    num_alike = 5 if lag == 0 else 3  # with a lag, the batch that died is sampled from a newer policy now
    for report, other in zip(reports[:num_alike], whole, strict=False):
        assert report.metrics.loss == other.metrics.loss
    assert max(report.policy_lag_steps for report in reports) == lag
