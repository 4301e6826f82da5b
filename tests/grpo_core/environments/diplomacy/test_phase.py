from __future__ import annotations

import random
import threading
from collections.abc import Callable, Hashable
from copy import deepcopy

import pytest

from grpo_core.environments.diplomacy.board import POWERS
from grpo_core.environments.diplomacy.game import DiplomacyEnvironment
from grpo_core.environments.diplomacy.phase import Phase, PhaseCache
from grpo_core.types import Observation

Player = Callable[[random.Random, Observation], str]


def test_remembered_phases_are_asked_like_new_ones(play_at_random: Player) -> None:
    """Games with a shared cache, played twice, against one that works out everything by itself."""
    phases = PhaseCache()
    kinds = set()
    num_read = []
    for seed in (0, 0, 1):
        rng = random.Random(seed)
        shared = DiplomacyEnvironment(horizon=3, phases=phases)
        while not shared.done:
            kinds.add(shared.position.kind)
            alone = DiplomacyEnvironment(horizon=3)
            alone.restore(shared.snapshot())
            assert shared.observe() == alone.observe()
            actions = {observation.agent: play_at_random(rng, observation) for observation in shared.observe()}
            shared.step(actions)
            alone.step(actions)
            assert shared.snapshot() == alone.snapshot()
            assert shared.rewards() == alone.rewards()
        num_read.append(phases.num_misses)
    assert kinds == {"movement", "retreat", "adjustment"}
    assert num_read[0] == num_read[1] < num_read[2] == phases.num_phases  # the second game was the first one again


def test_siblings_share_the_work() -> None:
    phases = PhaseCache()
    environments = [DiplomacyEnvironment(phases=phases) for _ in range(5)]
    assert (phases.num_misses, phases.num_hits) == (1, 4)
    assert all(environment.observe() is environments[0].observe() for environment in environments)


@pytest.mark.parametrize("phase", ["F1903M", "W1903A"])
def test_positions_that_differ_in_anything_are_told_apart(phase: str) -> None:
    phases = PhaseCache()
    start = DiplomacyEnvironment(horizon=9).snapshot()
    start["state"]["name"] = phase
    start["state"]["units"]["RUSSIA"] = ["A WAR", "F SEV"]  # has builds
    start["state"]["units"]["TURKEY"] += ["A SYR"]  # must remove
    variants = [start]
    for what, power, value in [
        ("name", None, phase.replace("1903", "1904")),
        ("units", "ITALY", ["F NAP", "A ROM", "A TYR"]),
        ("units", "RUSSIA", ["A WAR", "A SEV"]),
        ("centers", "RUSSIA", ["MOS", "SEV", "WAR"]),
        ("homes", "RUSSIA", ["MOS"]),
    ]:
        changed = deepcopy(start)
        if power is None:
            changed["state"][what] = value
        else:
            changed["state"][what][power] = value
        variants.append(changed)
    for compact in (False, True):
        for variant in variants:
            shared = DiplomacyEnvironment(horizon=9, compact_prompts=compact, phases=phases)
            shared.restore(variant)
            alone = DiplomacyEnvironment(horizon=9, compact_prompts=compact)
            alone.restore(variant)
            assert shared.observe() == alone.observe()
            assert shared.position == alone.position


def test_retreats_are_told_apart() -> None:
    phases = PhaseCache()
    state = DiplomacyEnvironment(horizon=9).snapshot()
    state["state"]["name"] = "S1903R"
    state["state"]["units"]["FRANCE"] = ["*A PAR"]
    seen = []
    for targets in (["BRE", "GAS"], ["GAS"], ["GAS", "BRE"]):
        state["state"]["retreats"] = {power: {} for power in POWERS} | {"FRANCE": {"A PAR": targets}}
        environment = DiplomacyEnvironment(horizon=9, phases=phases)
        environment.restore(state)
        seen.append(environment.observe()[0].choices)
    assert seen[0] == seen[2] == (("A PAR D\n", "A PAR R BRE\n", "A PAR R GAS\n"),)
    assert seen[1] == (("A PAR D\n", "A PAR R GAS\n"),)


def test_the_phases_not_met_for_longest_are_forgotten() -> None:
    phases = PhaseCache(max_phases=2)
    reads: list[Hashable] = []

    def meet(name: str) -> None:
        phases.get(name, lambda: (reads.append(name), Phase({}))[1])

    for name in "abaca":
        meet(name)
    assert reads == ["a", "b", "c"]
    meet("b")
    assert reads == ["a", "b", "c", "b"]
    assert phases.num_phases == 2
    assert (phases.num_hits, phases.num_misses) == (2, 4)


def test_threads_may_share_a_cache() -> None:
    phases = PhaseCache(max_phases=4)
    wrong: list[Hashable] = []

    def meet(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(400):
            name = rng.randrange(8)
            found = phases.get(name, lambda name=name: Phase({str(name): None}))  # type: ignore[dict-item]
            if list(found.choices) != [str(name)]:
                wrong.append(name)

    threads = [threading.Thread(target=meet, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert phases.num_phases == 4
    assert phases.num_hits + phases.num_misses == 1600
