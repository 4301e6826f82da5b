"""Environments play while the engine decodes, and a batch shows nothing of it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Mapping
from typing import Any

import pytest

from grpo_core.config import EnvironmentConfig
from grpo_core.environments import ConfiguredFactory
from grpo_core.environments.arithmetic import ArithmeticEnvironment
from grpo_core.rollout.play.episode import EpisodeFailure
from tests.grpo_core.rollout.one_by_one import OneByOne
from tests.grpo_core.rollout.play.batch_content import turns_of
from tests.grpo_core.rollout.play.duel import duels
from tests.grpo_core.rollout.play.rooms import TINY, Rooms


def test_who_waits_for_a_move_decodes_together(rooms: Rooms) -> None:
    """Also in the openings: a round is one batch."""
    engine = rooms.engine = OneByOne(rooms.engine)

    rooms.collector(duels()).collect(0)

    assert engine.round_sizes == [3 * 2, 3 * 2, 12 * 2, 12 * 2]


def test_environments_play_while_the_engine_decodes(rooms: Rooms) -> None:
    engine = rooms.engine = OneByOne(rooms.engine)
    decoded_further = threading.Event()
    engine.on_step = lambda: decoded_further.set() if engine.num_steps == 8 else None
    played_at: list[int] = []

    class Patient(ArithmeticEnvironment):
        def step(self, actions: Mapping[str, str]) -> None:
            assert decoded_further.wait(20), "the engine waited for the environment"
            played_at.append(engine.num_steps)
            super().step(actions)

    batch = rooms.collector(ConfiguredFactory(EnvironmentConfig(), "patient", lambda _: Patient())).collect(0)

    assert len(played_at) == 12
    assert played_at[0] >= 8  # although its only request had ended after the first step
    assert batch.stats.num_failed_episodes == 0


def test_no_timing_is_seen_in_a_batch(rooms: Rooms) -> None:
    """Slow environments, failures and replacements included: every bit of a batch is the same."""
    inner = rooms.engine

    def play() -> tuple[list[Any], list[int], tuple[EpisodeFailure, ...]]:
        engine = rooms.engine = OneByOne(inner)
        collector = rooms.collector(duels({2: "step", 3: "observe", 4: "wrong move"}, is_slow=True), TINY)
        batch = collector.collect(0)
        bits = [(turn.completion_ids.tobytes(), turn.sampling_logprobs.tobytes()) for turn in turns_of(batch)]
        rewards = [trajectory.reward for group in batch.groups for trajectory in group.trajectories]
        return [*bits, *rewards], [request.sampling.seed for request in engine.submitted], collector.failures

    bits, seeds, failures = play()
    assert play() == (bits, seeds, failures)
    assert len(set(seeds)) == len(seeds)
    assert [failure.attempt for failure in failures] == [1, 1, 2]


def test_ctrl_c_waits_for_no_environment(rooms: Rooms) -> None:
    engine = rooms.engine = OneByOne(rooms.engine)
    decoding, go_on, ended = threading.Event(), threading.Event(), threading.Event()
    engine.on_step = lambda: decoding.set() if engine.num_steps == 3 else None
    main = threading.get_ident()

    class Stuck(ArithmeticEnvironment):
        def step(self, actions: Mapping[str, str]) -> None:
            decoding.wait(20)
            signal.pthread_kill(main, signal.SIGINT)
            go_on.wait(20)
            ended.set()

    collector = rooms.collector(ConfiguredFactory(EnvironmentConfig(), "stuck", lambda _: Stuck()))
    with pytest.raises(KeyboardInterrupt):
        collector.collect(0)
    assert not ended.is_set()
    assert not engine.waiting
    go_on.set()
    assert ended.wait(20)
