from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from pytest_grpo.systems.protocol import (
    Completion,
    GrpoSystem,
    Rollout,
    SystemSettings,
    TrainBatch,
    TrainGroup,
    TrainStep,
    UnsupportedError,
)
from pytest_grpo.systems.run_plan import RunPlan

if TYPE_CHECKING:
    from pytest_grpo.systems.protocol import Int32


def answer(num: int) -> Completion:
    return Completion(np.arange(num, dtype=np.int32), np.ones(num, dtype=np.bool_), np.zeros(num, dtype=np.float32))


@pytest.mark.parametrize("rewards", [(1.0, 0.0, 0.5), (0.1, 0.1, 0.1), (3.0, -2.0)])
def test_advantages_are_those_of_the_core(rewards: tuple[float, ...]) -> None:
    from grpo_core.training.advantages import group_advantages
    from grpo_core.types import Group, Trajectory

    group = TrainGroup(np.arange(3, dtype=np.int32), tuple(answer(2) for _ in rewards), rewards)
    core = Group("0", tuple(Trajectory("0", "policy", (), reward) for reward in rewards))
    np.testing.assert_array_equal(group.advantages, group_advantages([core], "group_std")[0])


def test_a_batch_takes_every_completion_of_a_rollout() -> None:
    rollout = Rollout(((answer(2), answer(3)), (answer(1), answer(4))), seconds=1.0)
    prompts = [np.arange(5, dtype=np.int32), np.arange(6, dtype=np.int32)]
    batch = TrainBatch.from_rollout(prompts, rollout, [[0, 1], [1, 0]])
    assert [len(completion.completion_ids) for completion in batch.completions] == [2, 3, 1, 4]
    assert [len(group.prompt_ids) for group in batch.groups] == [5, 6]
    assert batch.groups[1].rewards == (1, 0)
    assert batch.num_loss_tokens == rollout.num_completion_tokens == 10


def test_a_method_left_out_says_so() -> None:
    class Sampler(GrpoSystem):
        name = "sampler"

    system = Sampler()
    with pytest.raises(UnsupportedError, match=r"^system sampler: has no train_step; leave out"):
        system.train_step(TrainBatch(()))
    assert system.counters == {}


def test_a_class_with_two_methods_is_a_system(tmp_path: Path) -> None:
    """As it was before there were runs, events and states: all of these are left out, and say so."""

    class Two(GrpoSystem):
        name = "two"

        def __init__(self, settings: SystemSettings) -> None:
            self.settings = settings

        def rollout(
            self,
            prompts: Sequence[Int32],
            group_size: int,
            max_tokens: int,
            *,
            seed: int,
            batch_size: int | None = None,
            greedy: bool = False,
        ) -> Rollout:
            return Rollout((), seconds=1.0)

        def train_step(self, batch: TrainBatch, *, learning_rate: float = 0.0) -> TrainStep:
            return TrainStep(0.0, 0.0, 0.0, 0.0, 1, 1, 0, 0, ())

    system = Two(SystemSettings(home=tmp_path))
    assert isinstance(system, GrpoSystem)
    assert system.train_step(TrainBatch(())).num_forward_passes == 1
    assert (system.decoders(), system.tokenizers(), system.logprob_tolerance) == ((), (), 0.0)
    plan = RunPlan(("a",), lambda prompt, answers: 0.0)
    for name, call in {
        "run": lambda: system.run(1, plan),
        "events": lambda: system.events(tmp_path),
        "trace": lambda: system.trace(tmp_path),
        "save_state": lambda: system.save_state(tmp_path),
        "load_state": lambda: system.load_state(tmp_path),
    }.items():
        with pytest.raises(UnsupportedError, match=rf"^system two: has no {name}; leave out"):
            call()


def test_settings_that_a_system_has_not_are_one_line(tmp_path: Path) -> None:
    settings = SystemSettings(home=tmp_path, method="full")
    settings.only("mine", method=("lora", "full"), dtype=("float32",))
    with pytest.raises(UnsupportedError, match=r"^system mine: has no method 'full'; what it has is 'lora'$"):
        settings.only("mine", dtype=("float32",), method=("lora",))


def test_a_preset_has_a_path_that_transformers_takes(tmp_path: Path) -> None:
    from grpo_core.errors import ModelError

    assert (Path(SystemSettings(home=tmp_path).model_path) / "config.json").is_file()
    assert SystemSettings(home=tmp_path, model="org/name").model_path == "org/name"
    with pytest.raises(ModelError, match="no such preset or folder"):
        _ = SystemSettings(home=tmp_path, model="huge").model_path
