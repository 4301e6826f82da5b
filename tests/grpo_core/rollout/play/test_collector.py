from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grpo_core.config import EnvironmentConfig, RolloutConfig
from grpo_core.environments import ConfiguredFactory, EnvironmentFactory, make_environment_factory
from grpo_core.environments.arithmetic import ArithmeticEnvironment
from grpo_core.environments.diplomacy.board import POWERS
from grpo_core.lora.store import AdapterStore
from grpo_core.types import Adapter, Observation, RolloutStats
from tests.grpo_core.rollout.play.batch_content import content, turns_of
from tests.grpo_core.rollout.play.duel import Duel, duels
from tests.grpo_core.rollout.play.rooms import SMALL, Rooms


def test_a_batch_holds_groups_of_siblings(rooms: Rooms, arithmetic: EnvironmentFactory) -> None:
    batch = rooms.collector(arithmetic).collect(5)

    assert (batch.index, batch.policy_version) == (5, 0)
    assert [group.group_id for group in batch.groups] == ["5-0-solver", "5-1-solver", "5-2-solver"]
    for group in batch.groups:
        prompts = {trajectory.turns[0].prompt_ids.tobytes() for trajectory in group.trajectories}
        answers = {trajectory.turns[0].completion_ids.tobytes() for trajectory in group.trajectories}
        assert len(group.trajectories) == 4
        assert len(prompts) == 1
        assert len(answers) > 1  # siblings draw with seeds of their own
        assert {trajectory.group_id for trajectory in group.trajectories} == {group.group_id}


def test_rewards_are_those_of_the_answers(rooms: Rooms) -> None:
    class Shouts(ArithmeticEnvironment):
        """Pays a token's length, so that every answer has a reward of its own."""

        def step(self, actions: Mapping[str, str]) -> None:
            super().step(actions)
            self._reward = float(len(actions["solver"]))

    batch = rooms.collector(ConfiguredFactory(EnvironmentConfig(), "shouts", lambda _: Shouts())).collect(0)

    rewards = [trajectory.reward for group in batch.groups for trajectory in group.trajectories]
    assert rewards == [len(rooms.tokenizer.decode(turn.completion_ids)) for turn in turns_of(batch)]
    assert len(set(rewards)) > 3


def test_index_seed_and_version_decide_a_batch(
    rooms: Rooms, arithmetic: EnvironmentFactory, make_adapter: Callable[..., Adapter], tmp_path: Path
) -> None:
    first = content(rooms.collector(arithmetic).collect(3))
    collector = rooms.collector(arithmetic)
    collector.collect(0)
    again = content(collector.collect(3))
    assert first == again
    assert content(collector.collect(4))[0][3] != first[0][3]
    reseeded = rooms.collector(arithmetic, SMALL.model_copy(update={"seed": 1}))
    assert content(reseeded.collect(3)) != first

    AdapterStore(tmp_path / "adapters").publish(make_adapter(rooms.policy, std=0.2))
    rooms.engine.use_version(1)
    trained = collector.collect(3)
    assert trained.policy_version == 1
    assert content(trained) != first
    rooms.engine.use_version(0)
    assert content(collector.collect(3)) == first


def test_stats_count_shared_prompts_once(rooms: Rooms, arithmetic: EnvironmentFactory) -> None:
    batch = rooms.collector(arithmetic).collect(0)
    turns = turns_of(batch)
    different = {turn.prompt_ids.tobytes(): len(turn.prompt_ids) for turn in turns}

    assert batch.stats == RolloutStats(
        duration_s=batch.stats.duration_s,
        num_prompt_tokens=sum(len(turn.prompt_ids) for turn in turns),
        num_prefill_tokens=sum(different.values()),
        num_completion_tokens=sum(len(turn.completion_ids) for turn in turns),
        num_completions=12,
        num_failed_episodes=0,
        num_sampled_groups=3,
        num_zero_variance_groups=3,  # nobody adds up
        num_trajectories=12,
        num_sampled_tokens=batch.stats.num_completion_tokens,
        num_cached_tokens=batch.stats.num_prompt_tokens - sum(different.values()),
        num_decode_steps=batch.stats.num_decode_steps,
        num_decode_rows=batch.stats.num_decode_rows,
        kv_share_steps=batch.stats.kv_share_steps,
    )
    assert batch.stats.num_prompt_tokens >= 4 * batch.stats.num_prefill_tokens
    assert batch.stats.tokens_per_second == batch.stats.num_completion_tokens / batch.stats.duration_s


@pytest.mark.parametrize("wanted", [True, False])
def test_reference_logprobs_are_collected_when_wanted(
    wanted: bool, rooms: Rooms, arithmetic: EnvironmentFactory
) -> None:
    batch = rooms.collector(arithmetic, want_ref_logprobs=wanted).collect(0)

    assert {turn.ref_logprobs is not None for turn in turns_of(batch)} == {wanted}


def test_several_agents_and_turns_keep_to_their_choices(rooms: Rooms) -> None:
    batch = rooms.collector(duels()).collect(0)

    assert [group.group_id for group in batch.groups] == [
        f"0-{group}-{agent}" for group in range(3) for agent in ("left", "right")
    ]
    answers = set()
    for group in batch.groups:
        agent = group.trajectories[0].agent
        for trajectory in group.trajectories:
            texts = [rooms.tokenizer.decode(turn.completion_ids) for turn in trajectory.turns]
            answers.update((agent, text) for text in texts)
            assert [turn.finish_reason for turn in trajectory.turns] == ["stop", "stop"]
            assert trajectory.reward == ("".join(texts).count("A") if agent == "left" else -1.5)
            first, second = (rooms.tokenizer.decode(turn.prompt_ids) for turn in trajectory.turns)
            assert first.startswith(f"{agent}: ")
            assert first.endswith("turn 2\n")
            assert texts[0] in second
    assert answers <= {("right", "G\n"), ("right", "H\n")} | {
        ("left", one + two) for one in ("A\n", "B\n", "C D\n") for two in ("E\n", "F\n")
    }
    assert len(answers) > 4


def test_an_answer_matches_the_pattern_of_its_observation(rooms: Rooms) -> None:
    class Patterned(Duel):
        def observe(self) -> tuple[Observation, ...]:
            return tuple(replace(item, choices=None, pattern="[ab]{1,2}\n") for item in super().observe())

    factory = ConfiguredFactory(EnvironmentConfig(), "patterned", lambda _: Patterned(horizon=1))
    turns = turns_of(rooms.collector(factory).collect(0))

    texts = {rooms.tokenizer.decode(turn.completion_ids) for turn in turns}
    assert len(texts) > 1
    assert all(re.fullmatch("[ab]{1,2}\n", text) for text in texts)
    assert all(turn.allowed_ids is not None and turn.finish_reason == "stop" for turn in turns)


def test_siblings_start_after_one_opening(rooms: Rooms) -> None:
    batch = rooms.collector(duels()).collect(0)

    starts = [{trajectory.turns[0].prompt_ids.tobytes() for trajectory in group.trajectories} for group in batch.groups]
    assert [len(start) for start in starts] == [1] * 6
    assert len(set.union(*starts)) > 2  # another group, another opening
    assert rooms.engine.counters.num_requests == 3 * 2 * 2 + 12 * 2 * 2


def test_an_opening_is_played_once_and_then_read(rooms: Rooms, tmp_path: Path) -> None:
    states = tmp_path / "states"
    fresh = rooms.collector(duels(), states=states).collect(0)
    played = rooms.engine.counters
    restored = rooms.collector(duels(), states=states).collect(0)
    restored_later = rooms.collector(duels(), states=states).collect(7)

    assert played.num_requests == 3 * 2 * 2 + 48
    assert (rooms.engine.counters - played).num_requests == 2 * 48
    assert content(restored) == content(fresh)
    assert restored.stats.num_prefill_tokens < fresh.stats.num_prefill_tokens
    first_prompts = [group.trajectories[0].turns[0].prompt_ids.tolist() for group in fresh.groups]
    assert [group.trajectories[0].turns[0].prompt_ids.tolist() for group in restored_later.groups] == first_prompts
    assert [item[1:] for item in content(restored_later)] != [item[1:] for item in content(fresh)]
    assert content(rooms.collector(duels()).collect(0)) == content(fresh)  # and without a cache


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 9},
        {"temperature": 0.5},
        {"top_p": 0.5},
        {"max_completion_tokens": 7},
        {"chat_template_arguments": {"enable_thinking": False}},
    ],
    ids=str,
)
def test_an_opening_of_another_making_is_not_used(change: dict[str, Any], rooms: Rooms, tmp_path: Path) -> None:
    states = tmp_path / "states"
    rooms.collector(duels(), states=states).collect(0)
    before = rooms.engine.counters

    rooms.collector(duels(), SMALL.model_copy(update=change), states=states).collect(0)

    assert (rooms.engine.counters - before).num_requests == 3 * 2 * 2 + 48


def test_a_year_of_diplomacy_gives_a_group_per_power(rooms: Rooms) -> None:
    factory = make_environment_factory(EnvironmentConfig(name="diplomacy", horizon=1, compact_prompts=True))
    config = RolloutConfig(num_groups=1, group_size=2)

    batch = rooms.collector(factory, config).collect(0)

    assert [group.group_id for group in batch.groups] == [f"0-0-{power}" for power in sorted(POWERS)]
    for group in batch.groups:
        assert len(group.trajectories) == 2
        for trajectory in group.trajectories:
            assert 2 <= len(trajectory.turns) <= 5
            assert np.isfinite(trajectory.reward)
            for turn in trajectory.turns:
                assert turn.allowed_ids is not None
                assert turn.finish_reason == "stop"
                assert rooms.tokenizer.decode(turn.completion_ids).endswith("\n")
    openings = [[item.turns[0].completion_ids.tolist() for item in group.trajectories] for group in batch.groups]
    assert any(first != second for first, second in openings)
    share = np.mean([turn.completion_mask.mean() for turn in turns_of(batch)])
    assert 0.1 < share < 0.9  # a good part of an order is forced
