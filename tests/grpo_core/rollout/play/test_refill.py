"""Dynamic sampling: starting states without a gradient are replaced, always by the same ones."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from grpo_core.config import EnvironmentConfig, RolloutConfig
from grpo_core.environments import ConfiguredFactory, EnvironmentFactory
from grpo_core.environments.arithmetic import ArithmeticEnvironment
from grpo_core.types import Batch
from tests.grpo_core.rollout.one_by_one import OneByOne
from tests.grpo_core.rollout.play.batch_content import content, turns_of
from tests.grpo_core.rollout.play.duel import Duel
from tests.grpo_core.rollout.play.rooms import Rooms

OFF = RolloutConfig(num_groups=6, group_size=3, max_completion_tokens=6)
ON = OFF.model_copy(update={"max_refill_rounds": 12})
OF_THE_CACHE: Mapping[str, Any] = {
    "duration_s": 0,
    "num_prefill_tokens": 0,
    "num_cached_tokens": 0,
    "kv_share_steps": 0,
}
"""What depends on what the prefix cache held before, and on the clock."""
NOTHING = float("nan")  # one object, which a set would hold once


class Picky(ArithmeticEnvironment):
    """Pays every answer differently where the sum is odd, and nobody where it is even."""

    def __init__(self, seeds: list[int]) -> None:
        self._seeds = seeds
        super().__init__()

    def reset(self, seed: int) -> None:
        if seed:  # it was not the constructor
            self._seeds.append(seed)
        super().reset(seed)

    def step(self, actions: Mapping[str, str]) -> None:
        super().step(actions)
        self._reward = float(zlib.crc32(actions["solver"].encode())) if (self._a + self._b) % 2 else 0.0


def picky(seeds: list[int] | None = None) -> EnvironmentFactory:
    """All seeds of resets go to ``seeds``."""
    noted = seeds if seeds is not None else []
    return ConfiguredFactory(EnvironmentConfig(), "picky", lambda _: Picky(noted))


def bits(batch: Batch) -> list[Any]:
    return [(turn.completion_ids.tobytes(), turn.sampling_logprobs.tobytes()) for turn in turns_of(batch)]


def test_a_batch_is_refilled_until_every_group_has_a_gradient(rooms: Rooms) -> None:
    seeds: list[int] = []
    before = rooms.engine.counters
    batch = rooms.collector(picky(seeds), ON).collect(3)
    made = rooms.engine.counters - before
    plain = rooms.collector(picky(), OFF).collect(3)

    assert len(batch.groups) == len(plain.groups) == 6
    assert all(group.has_spread for group in batch.groups)
    is_kept = [group.has_spread for group in plain.groups]
    assert 0 < sum(is_kept) < 6
    num_refills = []
    for kept, found, first in zip(is_kept, batch.groups, plain.groups, strict=True):
        index, place, agent = found.group_id.split("-")
        group, _, refill = place.partition(".")
        assert (found.group_id == first.group_id) == kept
        assert (index, group, agent) == tuple(first.group_id.split("-"))
        num_refills.append(int(refill or 0))
        if kept:
            one, other = (replace(plain, groups=(item,)) for item in (found, first))
            assert content(one) == content(other)
    stats = batch.stats
    assert (stats.num_replaced_groups, stats.num_sampled_groups) == (sum(num_refills), 6 + sum(num_refills))
    assert (stats.num_refilled_groups, stats.num_zero_variance_groups) == (6 - sum(is_kept), 0)
    assert len(seeds) == len(set(seeds)) == stats.num_sampled_groups  # no starting state twice
    assert stats.num_trajectories == stats.num_completions == made.num_requests == 3 * stats.num_sampled_groups
    assert stats.num_completion_tokens == made.num_completion_tokens  # with those that were replaced
    assert stats.num_completion_tokens > sum(len(turn.completion_ids) for turn in turns_of(batch))
    assert stats.num_prefill_tokens == made.num_prefill_tokens
    rewards = [item.reward for group in batch.groups for item in group.trajectories]
    assert stats.sampled_reward_mean == pytest.approx(sum(rewards) / stats.num_trajectories)  # the others earned 0


def test_without_it_the_same_is_counted_and_nothing_replaced(rooms: Rooms) -> None:
    batch = rooms.collector(picky(), OFF).collect(3)

    rewards = [item.reward for group in batch.groups for item in group.trajectories]
    stats = batch.stats
    assert (stats.num_sampled_groups, stats.num_replaced_groups, stats.num_refilled_groups) == (6, 0, 0)
    assert stats.num_zero_variance_groups == sum(not group.has_spread for group in batch.groups) > 0
    assert stats.sampled_reward_mean == pytest.approx(sum(rewards) / len(rewards))


def test_the_index_decides_a_refilled_batch(rooms: Rooms) -> None:
    """Whatever was collected before: a resumed run plays on as the one that was not interrupted."""
    collector = rooms.collector(picky(), ON)
    batches = [collector.collect(index) for index in range(4)]

    assert len({group.group_id for batch in batches for group in batch.groups}) == 24
    assert any(batch.stats.num_replaced_groups for batch in batches[2:])
    for index in (3, 2):
        again = rooms.collector(picky(), ON).collect(index)
        assert bits(again) == bits(batches[index])
        assert content(again) == content(batches[index])
        assert replace(again.stats, **OF_THE_CACHE) == replace(batches[index].stats, **OF_THE_CACHE)


def test_parts_that_several_collectors_refill_are_the_batch(rooms: Rooms) -> None:
    whole = rooms.collector(picky(), ON).collect(3)
    parts = [rooms.collector(picky(), ON, groups=places).collect(3) for places in (range(2), range(2, 6))]

    assert [item for part in parts for item in content(part)] == content(whole)
    assert sum(part.stats.num_sampled_groups for part in parts) == whole.stats.num_sampled_groups


def test_at_the_bound_the_batch_goes_on_with_what_it_has(rooms: Rooms) -> None:
    class Even(ArithmeticEnvironment):
        """Always pays the same."""

        def rewards(self) -> Mapping[str, float]:
            return {"solver": 0.5}

    factory = ConfiguredFactory(EnvironmentConfig(), "even", lambda _: Even())
    batch = rooms.collector(factory, OFF.model_copy(update={"max_refill_rounds": 2})).collect(1)

    assert [group.group_id for group in batch.groups] == [f"1-{place}.2-solver" for place in range(6)]
    stats = batch.stats
    assert (stats.num_sampled_groups, stats.num_replaced_groups) == (18, 12)
    assert (stats.num_refilled_groups, stats.num_zero_variance_groups) == (0, 6)
    assert (stats.num_trajectories, stats.sampled_reward_mean) == (54, 0.5)


def test_a_game_is_replaced_as_a_whole_and_only_if_no_agent_has_a_gradient(rooms: Rooms) -> None:
    """The right one of a duel always earns the same."""
    engine = rooms.engine = OneByOne(rooms.engine)
    factory = ConfiguredFactory(EnvironmentConfig(), "duel", lambda _: Duel(horizon=1))
    config = RolloutConfig(num_groups=8, group_size=2)
    plain = rooms.collector(factory, config).collect(0)
    num_before = len(engine.submitted)
    batch = rooms.collector(factory, config.model_copy(update={"max_refill_rounds": 9})).collect(0)

    lefts, rights = batch.groups[::2], batch.groups[1::2]
    assert [group.trajectories[0].agent for group in batch.groups] == ["left", "right"] * 8
    assert all(group.has_spread for group in lefts)
    assert not any(group.has_spread for group in rights)
    for first, left, right in zip(plain.groups[::2], lefts, rights, strict=True):
        assert left.group_id.removesuffix("left") == right.group_id.removesuffix("right")
        assert (left.group_id == first.group_id) == first.has_spread
    assert batch.stats.num_zero_variance_groups == 0
    assert batch.stats.num_refilled_groups == plain.stats.num_zero_variance_groups > 0
    seeds = [request.sampling.seed for request in engine.submitted[num_before:]]
    assert len(set(seeds)) == len(seeds) > num_before


def test_a_replacement_has_an_opening_of_its_own_which_is_cached(rooms: Rooms, tmp_path: Path) -> None:
    factory = ConfiguredFactory(EnvironmentConfig(), "duel", lambda _: Duel(horizon=1))
    config = RolloutConfig(num_groups=8, group_size=2, max_refill_rounds=9)
    states = tmp_path / "states"
    first = rooms.collector(factory, config, states=states).collect(0)
    before = rooms.engine.counters
    again = rooms.collector(factory, config, states=states).collect(0)

    num_starts = first.stats.num_sampled_groups
    assert num_starts > 8
    assert len(list(states.iterdir())) == num_starts
    assert (rooms.engine.counters - before).num_requests == 2 * 2 * num_starts  # episodes, and no opening
    assert content(again) == content(first)
    assert content(rooms.collector(factory, config).collect(0)) == content(first)  # and without a cache
    plain = config.model_copy(update={"max_refill_rounds": 0})
    before = rooms.engine.counters
    rooms.collector(factory, plain, states=states).collect(0)
    assert (rooms.engine.counters - before).num_requests == 2 * 2 * 8  # those of the first ones are as ever


def test_an_attempt_at_a_replacement_that_fails_says_which(rooms: Rooms) -> None:
    seeds: list[int] = []

    class Breaking(Picky):
        num_steps = 0

        def step(self, actions: Mapping[str, str]) -> None:
            Breaking.num_steps += 1
            super().step(actions)
            if Breaking.num_steps == 18 + 1:  # the first answer to a replacement
                raise ZeroDivisionError("a broken rule")

    collector = rooms.collector(ConfiguredFactory(EnvironmentConfig(), "picky", lambda _: Breaking([])), ON)
    batch = collector.collect(3)
    whole = rooms.collector(picky(seeds), ON).collect(3)

    (failure,) = collector.failures
    assert failure.refill == 1
    assert f"batch 3, group {failure.group}, refill 1, sample 0, attempt 1 of 3" in str(failure)
    assert failure.environment_seed in seeds[6:]
    assert batch.stats.num_failed_episodes == 1
    assert all(group.has_spread for group in batch.groups)
    changed = [one != other for one, other in zip(content(batch), content(whole), strict=True)]
    assert sum(changed) <= 3  # of one group at most
