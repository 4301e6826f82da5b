from __future__ import annotations

import numpy as np
import pytest

from pytest_grpo.systems.protocol import (
    Completion,
    GrpoSystem,
    Rollout,
    TrainBatch,
    TrainGroup,
    UnsupportedError,
)


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
