"""A fleet's batch is the batch of one collector, and what a worker loses is its own."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

import numpy as np
import pytest

from grpo_core.cloud.fleet import RolloutFleet, Shard
from grpo_core.errors import EpisodeError, GrpoError
from grpo_core.types import Batch, Group, RolloutStats


def batch(shard: Shard) -> Batch:
    groups = tuple(Group(f"{shard.index}-{number}", ()) for number in range(shard.first_group, _end(shard)))
    return Batch(shard.index, shard.version, groups, _stats(shard))


def _stats(shard: Shard) -> RolloutStats:
    return RolloutStats(
        1.0,
        num_prompt_tokens=10,
        num_prefill_tokens=5,
        num_completion_tokens=20,
        num_completions=shard.num_groups,
        num_sampled_groups=shard.num_groups + 2,
        num_replaced_groups=2,
        num_refilled_groups=1,
        num_zero_variance_groups=1,
        num_trajectories=3 * (shard.num_groups + 2),
        sampled_reward_mean=float(shard.first_group),
    )


def _end(shard: Shard) -> int:
    return shard.first_group + shard.num_groups


@pytest.mark.parametrize(("num_groups", "num_workers"), [(7, 3), (2, 5), (4, 1), (16, 16)])
def test_shards_cover_every_group_once_and_evenly(num_groups: int, num_workers: int):
    seen: list[Shard] = []

    def play(shards: Sequence[Shard]) -> Iterable[Batch | Exception]:
        seen.extend(shards)
        return [batch(shard) for shard in shards]

    fleet = RolloutFleet(num_groups, num_workers, play)
    fleet.use_version(3)
    collected = fleet.collect(2)

    assert [group.group_id for group in collected.groups] == [f"2-{number}" for number in range(num_groups)]
    sizes = [shard.num_groups for shard in seen]
    assert min(sizes) > 0
    assert max(sizes) - min(sizes) <= 1
    assert {(shard.index, shard.version) for shard in seen} == {(2, 3)}
    assert (collected.index, collected.policy_version) == (2, 3)
    assert collected.stats.num_completion_tokens == 20 * len(seen)
    assert collected.stats.num_completions == num_groups


def test_a_failed_shard_costs_its_own_groups(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.WARNING, "grpo_core.cloud")
    fleet = RolloutFleet(6, 3, lambda shards: [batch(shards[0]), GrpoError("gone"), batch(shards[2])])

    collected = fleet.collect(0)

    assert [group.group_id for group in collected.groups] == ["0-0", "0-1", "0-4", "0-5"]
    assert "batch 0 goes on without groups 2 to 3: gone" in caplog.text


def test_when_every_shard_fails_there_is_no_batch():
    fleet = RolloutFleet(4, 2, lambda shards: [GrpoError("gone"), GrpoError("also gone")])

    with pytest.raises(EpisodeError, match="batch 0: every rollout worker failed; the first one with: gone"):
        fleet.collect(0)


def test_statistics_add_up():
    fleet = RolloutFleet(5, 2, lambda shards: [batch(shard) for shard in shards])

    stats = fleet.collect(0).stats

    assert (stats.num_prompt_tokens, stats.num_prefill_tokens) == (20, 10)
    assert np.isfinite(stats.tokens_per_second)
    assert (stats.num_sampled_groups, stats.num_replaced_groups) == (9, 4)
    assert (stats.num_refilled_groups, stats.num_zero_variance_groups) == (2, 2)
    assert stats.num_trajectories == 27
    assert stats.sampled_reward_mean == pytest.approx(2 * 15 / 27)  # of 2 groups 0, of 3 groups 2
