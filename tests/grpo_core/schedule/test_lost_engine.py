"""An engine that dies amid a run costs no step: what was done is saved, and a resumed run goes on from there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest

from grpo_core.errors import EngineError
from grpo_core.rollout.play.episode import EpisodeFailure
from grpo_core.rollout.protocol import AdapterSwap
from grpo_core.schedule.loop import train
from grpo_core.schedule.reports import StepReport
from grpo_core.schedule.stack import BatchCollector
from grpo_core.types import Batch
from tests.grpo_core.schedule.conftest import MakeStack
from tests.grpo_core.schedule.run import quiet

pytestmark = pytest.mark.usefixtures("nothing_is_left")


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
def test_no_step_is_lost_with_the_engine(lag: int, make_stack: MakeStack) -> None:
    whole = train(make_stack(home="whole", num_steps=5, lag=lag), quiet()).reports
    reports: list[StepReport] = []
    stack = make_stack(num_steps=5, lag=lag)

    with pytest.raises(EngineError, match="the engine has died"):
        train(replace(stack, collector=Dying(stack.collector, last=3)), quiet(), on_step=reports.append)

    num_done = len(reports)
    assert num_done >= 3 - lag  # the error may overtake a batch that waits
    assert max(path.name for path in stack.checkpoint_folder.iterdir()) == f"step-{num_done:06d}"
    reports += train(make_stack(num_steps=5, lag=lag), quiet(), resume=True).reports
    assert [report.metrics.step for report in reports] == [1, 2, 3, 4, 5]
    num_alike = 5 if lag == 0 else 3  # with a lag, the batch that died is sampled from a newer policy now
    for report, other in zip(reports[:num_alike], whole, strict=False):
        assert report.metrics.loss == other.metrics.loss
    assert max(report.policy_lag_steps for report in reports) == lag
