from __future__ import annotations

import logging
import random
import re
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grpo_core.config import EnvironmentConfig, RolloutConfig
from grpo_core.environments import ConfiguredFactory, EnvironmentFactory, make_environment_factory
from grpo_core.environments.arithmetic import ArithmeticEnvironment
from grpo_core.environments.diplomacy.board import POWERS
from grpo_core.environments.state_cache import StateCache
from grpo_core.errors import AdapterNotFoundError, EpisodeError, InvalidActionError, PromptError
from grpo_core.lora.cache import LoRACache
from grpo_core.lora.store import AdapterStore
from grpo_core.model import Policy, Tokenizer
from grpo_core.rollout.collector import Collector
from grpo_core.rollout.episode import MAX_ATTEMPTS, EpisodeFailure
from grpo_core.rollout.protocol import (
    AdapterSwap,
    EngineCounters,
    GenerationRequest,
    Outcome,
    RolloutEngine,
    run_requests,
)
from grpo_core.rollout.torch_engine.engine import TorchEngine
from grpo_core.types import Adapter, Batch, Completion, Observation, RolloutStats

SMALL = RolloutConfig(num_groups=3, group_size=4, max_completion_tokens=6)
TINY = RolloutConfig(num_groups=2, group_size=2, max_completion_tokens=6)


@dataclass
class Rooms:
    """What a collector needs besides its environment."""

    policy: Policy
    tokenizer: Tokenizer
    engine: RolloutEngine

    def collector(
        self, factory: EnvironmentFactory, config: RolloutConfig = SMALL, states: Path | None = None, **options: Any
    ) -> Collector:
        return Collector(
            self.engine,
            self.tokenizer,
            factory,
            config,
            model_fingerprint=self.policy.fingerprint,
            state_cache=StateCache(states) if states is not None else None,
            **options,
        )


@pytest.fixture
def rooms(policy: Policy, tokenizer: Tokenizer, tmp_path: Path) -> Rooms:
    cache = LoRACache(AdapterStore(tmp_path / "adapters"), max_bytes=1 << 20, max_adapters=3)
    return Rooms(policy, tokenizer, TorchEngine(policy, tokenizer.stop_id, cache, "run"))


@pytest.fixture
def arithmetic() -> EnvironmentFactory:
    return make_environment_factory(EnvironmentConfig(name="arithmetic"))


class OneByOne:
    """The engine ``inner``, which begins no request before the one in front of it has ended."""

    def __init__(self, inner: RolloutEngine) -> None:
        self.inner = inner
        self.waiting: dict[int, GenerationRequest] = {}
        self.submitted: list[GenerationRequest] = []
        self.cancelled: list[int] = []
        self.num_steps = 0
        self.round_sizes: list[int] = []  # requests that waited whenever a first one was stepped
        self.on_step: Callable[[], None] = lambda: None

    @property
    def policy_version(self) -> int:
        return self.inner.policy_version

    @property
    def counters(self) -> EngineCounters:
        return self.inner.counters

    def use_version(self, number: int) -> AdapterSwap:
        return self.inner.use_version(number)

    def submit(self, request: GenerationRequest) -> int:
        self.submitted.append(request)
        self.waiting[len(self.submitted)] = request
        return len(self.submitted)

    def step(self) -> list[Outcome]:
        if len(self.submitted) > sum(self.round_sizes):
            self.round_sizes.append(len(self.submitted) - sum(self.round_sizes))
        self.num_steps += 1
        self.on_step()
        if not self.waiting:
            return []
        ticket = next(iter(self.waiting))
        return [Outcome(ticket, run_requests(self.inner, [self.waiting.pop(ticket)])[0])]

    def cancel(self, ticket: int) -> None:
        if self.waiting.pop(ticket, None) is not None:
            self.cancelled.append(ticket)

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Completion]:
        raise AssertionError("a collector submits")


@dataclass
class Duel:
    """Two agents answer in each of ``horizon`` turns, after an opening of two. What was said is the state.

    ``breaks`` names what fails: ``opening``, ``step``, ``wrong move``, ``observe``, ``nobody``, ``prompt`` or
    ``rewards``.
    """

    horizon: int = 2
    breaks: str = ""
    is_slow: bool = False
    said: list[str] = field(default_factory=list)
    seed: int = 0

    @property
    def in_opening(self) -> bool:
        return len(self.said) < 2

    @property
    def done(self) -> bool:
        return len(self.said) >= 2 + self.horizon

    def reset(self, seed: int) -> None:
        self.seed, self.said = seed, []

    def observe(self) -> tuple[Observation, ...]:
        board = "".join(self.said) + f"turn {len(self.said)}\n"
        if len(self.said) == 3:
            if self.breaks == "observe":
                raise KeyError("a lost board")
            if self.breaks == "nobody":
                return ()
            if self.breaks == "prompt":
                board *= 80
        return (
            Observation("left", f"left: {board}", choices=(("A\n", "B\n", "C D\n"), ("E\n", "F\n"))),
            Observation("right", f"right: {board}", choices=(("G\n", "H\n"),)),
        )

    def step(self, actions: Mapping[str, str]) -> None:
        if self.is_slow:
            time.sleep(random.uniform(0, 0.004))
        if self.breaks == ("opening" if self.in_opening else "step"):
            raise ZeroDivisionError("a broken rule")
        if self.breaks == "wrong move" and not self.in_opening:
            raise InvalidActionError("a broken move")
        assert sorted(actions) == ["left", "right"]
        self.said.append(actions["left"] + actions["right"])

    def rewards(self) -> Mapping[str, float]:
        if self.breaks == "rewards":
            return {"left": 0.0}
        return {"left": float("".join(self.said[2:]).count("A")), "right": -1.5}

    def snapshot(self) -> dict[str, Any]:
        return {"said": list(self.said), "seed": self.seed}

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        self.said, self.seed = list(snapshot["said"]), snapshot["seed"]


def duels(breaks: Mapping[int, str] | str = "", is_slow: bool = False) -> EnvironmentFactory:
    """What ``breaks`` in the environments made, counted from 0, or in each of them."""
    made: list[Duel] = []

    def make(_: EnvironmentConfig) -> Duel:
        made.append(Duel(breaks=breaks if isinstance(breaks, str) else breaks.get(len(made), ""), is_slow=is_slow))
        return made[-1]

    return ConfiguredFactory(EnvironmentConfig(), "duel", make)


def content(batch: Batch) -> list[Any]:
    """All that is trained on, comparable."""
    return [
        (
            group.group_id,
            trajectory.agent,
            trajectory.reward,
            [
                (turn.prompt_ids.tolist(), turn.completion_ids.tolist(), turn.sampling_logprobs.round(4).tolist())
                for turn in trajectory.turns
            ],
        )
        for group in batch.groups
        for trajectory in group.trajectories
    ]


def turns_of(batch: Batch) -> list[Completion]:
    return [turn for group in batch.groups for trajectory in group.trajectories for turn in trajectory.turns]


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
    "change", [{"seed": 9}, {"temperature": 0.5}, {"top_p": 0.5}, {"max_completion_tokens": 7}], ids=str
)
def test_an_opening_of_another_making_is_not_used(change: dict[str, Any], rooms: Rooms, tmp_path: Path) -> None:
    states = tmp_path / "states"
    rooms.collector(duels(), states=states).collect(0)
    before = rooms.engine.counters

    rooms.collector(duels(), SMALL.model_copy(update=change), states=states).collect(0)

    assert (rooms.engine.counters - before).num_requests == 3 * 2 * 2 + 48


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


@pytest.mark.parametrize(
    ("breaks", "num_rounds", "error"),
    [
        ("step", 1, "ZeroDivisionError: a broken rule"),
        ("wrong move", 1, "InvalidActionError: a broken move"),
        ("observe", 1, "KeyError: 'a lost board'"),
        ("nobody", 1, "InvalidActionError: the environment observes no agent and is not done"),
        ("prompt", 1, "PromptError: prompt of"),
        ("rewards", 2, "KeyError: 'right'"),
    ],
)
def test_a_failed_episode_is_played_again(
    breaks: str, num_rounds: int, error: str, rooms: Rooms, caplog: pytest.LogCaptureFixture
) -> None:
    whole = content(rooms.collector(duels()).collect(4))
    collector = rooms.collector(duels({7: breaks}))  # 0 to 2 play the openings, 3 to 5 are siblings of 0
    with caplog.at_level(logging.WARNING, logger="grpo_core.rollout"):
        batch = collector.collect(4)

    (failure,) = collector.failures
    assert batch.stats.num_failed_episodes == 1
    assert [record.getMessage() for record in caplog.records if record.name == "grpo_core.rollout"] == [
        f"{failure}; it is played again"
    ]
    assert str(failure).startswith("batch 4, group 1, sample 2, attempt 1 of 3: environment 'duel' with seed ")
    assert failure.num_rounds == num_rounds
    assert failure.error.startswith(error)
    played = content(batch)
    replaced = [1 * 8 + 2, 1 * 8 + 4 + 2]
    assert [place for place, (one, other) in enumerate(zip(whole, played, strict=True)) if one != other] == replaced
    for place in replaced:
        assert played[place][3][0][0] == whole[place][3][0][0]  # from the same starting state
        assert len(played[place][3]) == 2


def test_agents_of_a_failed_episode_are_asked_no_further(rooms: Rooms) -> None:
    engine = rooms.engine = OneByOne(rooms.engine)

    rooms.collector(duels({7: "prompt"})).collect(0)

    tickets = [place for place, request in enumerate(engine.submitted, 1) if len(request.prompt_ids) > 2048]
    assert len(tickets) == 2  # of the left and the right
    assert engine.cancelled == tickets[1:]


def test_a_failed_opening_is_played_again(rooms: Rooms) -> None:
    whole = rooms.collector(duels()).collect(0)
    collector = rooms.collector(duels({1: "opening"}))
    batch = collector.collect(0)

    assert batch.stats.num_failed_episodes == 1
    assert collector.failures[0].is_opening
    assert "group 1, the opening, attempt 1" in str(collector.failures[0])
    changed = [one != other for one, other in zip(content(whole), content(batch), strict=True)]
    assert changed == [8 <= place < 16 for place in range(24)]


@pytest.mark.parametrize("breaks", ["opening", "step", "observe", "nobody", "prompt", "rewards"])
def test_an_episode_that_always_fails_is_an_error(breaks: str, rooms: Rooms) -> None:
    engine = rooms.engine = OneByOne(rooms.engine)
    collector = rooms.collector(duels(breaks), TINY)

    with pytest.raises(EpisodeError, match=r"batch 0, group 0, .*, attempt 3 of 3: environment 'duel' .*; mend the"):
        collector.collect(0)

    assert max(failure.attempt for failure in collector.failures) == MAX_ATTEMPTS
    assert not engine.waiting
    assert len(content(rooms.collector(duels(), TINY).collect(0))) == 8


def test_what_fails_before_anybody_answers_reaches_the_caller(rooms: Rooms) -> None:
    class Unset(ArithmeticEnvironment):
        def observe(self) -> tuple[Observation, ...]:
            raise RuntimeError("no questions here")

    collector = rooms.collector(ConfiguredFactory(EnvironmentConfig(), "unset", lambda _: Unset()))
    with pytest.raises(RuntimeError, match="no questions here"):
        collector.collect(0)
    assert collector.failures == ()


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
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            collector.collect(0)
    finally:
        signal.signal(signal.SIGINT, before)
    assert not ended.is_set()
    assert not engine.waiting
    go_on.set()
    assert ended.wait(20)


def test_a_prompt_that_does_not_fit_reaches_the_caller(
    rooms: Rooms, arithmetic: EnvironmentFactory, caplog: pytest.LogCaptureFixture
) -> None:
    """At once: the starting state's prompt would be too long in every attempt."""
    engine = rooms.engine = OneByOne(rooms.engine)
    collector = rooms.collector(arithmetic, SMALL.model_copy(update={"max_completion_tokens": 2045}))

    with pytest.raises(PromptError, match="the model's context is 2048"):
        collector.collect(0)

    assert engine.num_steps == 1
    assert not engine.waiting
    assert collector.failures == ()
    assert not caplog.records


def test_an_adapter_that_is_missing_reaches_the_caller(rooms: Rooms) -> None:
    class Elsewhere(OneByOne):
        def step(self) -> list[Outcome]:
            lost = AdapterNotFoundError("version 3 is gone")
            return [replace(outcome, result=lost) for outcome in super().step()]

    rooms.engine = Elsewhere(rooms.engine)
    with pytest.raises(AdapterNotFoundError, match="version 3"):
        rooms.collector(duels()).collect(0)


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
