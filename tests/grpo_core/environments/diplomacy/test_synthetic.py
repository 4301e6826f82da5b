from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from statistics import mean

from grpo_core.environments.diplomacy.board import CENTERS, POWERS
from grpo_core.environments.diplomacy.game import DiplomacyEnvironment
from grpo_core.environments.diplomacy.prompts import compact_prompt, full_prompt
from grpo_core.environments.diplomacy.synthetic import sample_position
from grpo_core.types import Observation

Player = Callable[[random.Random, Observation], str]


def test_positions_are_possible() -> None:
    rng = random.Random(0)
    kinds: Counter[str] = Counter()
    for _ in range(150):
        position, power, choices = sample_position(rng)
        kinds[position.kind] += 1
        assert choices
        assert all(line.endswith("\n") for lines in choices for line in lines)
        provinces = [unit[2:5] for units in position.units.values() for unit in units]
        assert len(provinces) == len(set(provinces))
        owned = [center for centers in position.centers.values() for center in centers]
        assert len(owned) == len(set(owned))
        assert set(owned) <= set(CENTERS)
        if position.kind == "retreat":
            assert position.retreats[power]
        if position.kind == "adjustment":
            assert len(choices) == abs(position.builds[power])
    assert kinds["movement"] > kinds["adjustment"] > kinds["retreat"] > 0


def test_orders_are_nearly_those_of_the_engine() -> None:
    rng = random.Random(1)
    environment = DiplomacyEnvironment(horizon=99)
    snapshot = environment.snapshot()
    num_both = num_synthetic = num_engine = 0
    for _ in range(80):
        position, power, choices = sample_position(rng)
        if position.kind == "retreat":
            continue  # where the attacker came from is not part of a position
        snapshot["state"] |= {
            "name": position.phase,
            "units": {power: list(position.units[power]) for power in POWERS},
            "centers": {power: list(position.centers[power]) for power in POWERS},
        }
        environment.restore(snapshot)
        assert dict(environment.position.builds) == dict(position.builds)
        observation = next(each for each in environment.observe() if each.agent == power)
        synthetic = {line for lines in choices for line in lines}
        engine = {line for lines in observation.choices or () for line in lines}
        num_both, num_synthetic = num_both + len(synthetic & engine), num_synthetic + len(synthetic)
        num_engine += len(engine)
    assert num_both / num_synthetic > 0.97
    assert num_both / num_engine > 0.9


def test_prompts_are_as_long_as_real_ones(play_at_random: Player) -> None:
    rng = random.Random(3)
    samples = [sample_position(rng) for _ in range(150)]
    environment = DiplomacyEnvironment(horizon=6)
    real = []
    while not environment.done:
        real += [(environment.position, each.agent, each.choices or ()) for each in environment.observe()]
        environment.step({each.agent: play_at_random(rng, each) for each in environment.observe()})
    for prompt in full_prompt, compact_prompt:
        ratio = mean(len(prompt(*each)) for each in samples) / mean(len(prompt(*each)) for each in real)
        assert 0.85 < ratio < 1.15


def test_equal_seeds_give_equal_samples_in_any_process_without_the_engine() -> None:
    script = (
        "import random, sys\n"
        "from grpo_core.environments.diplomacy.synthetic import sample_position\n"
        "rng = random.Random(7)\n"
        "print([sample_position(rng) for _ in range(5)])\n"
        "assert 'diplomacy' not in sys.modules\n"
    )
    rng = random.Random(7)
    expected = str([sample_position(rng) for _ in range(5)])
    for hash_seed in "1", "2":
        done = subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": hash_seed},
        )
        assert done.stdout.strip() == expected
