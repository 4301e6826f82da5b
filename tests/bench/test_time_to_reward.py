from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from bench.checks.learning import Race
from bench.learning_arms.race_verdict import NEVER, Pair, decide, rate_lines, simulate, spread_of
from bench.time_to_reward import main, verdict_line
from pytest_grpo.measuring.statistics.sign_test import PASS_ALPHA, Plan
from pytest_grpo.types import Verdict


def pair_of(seed: int, ratio: float) -> Pair:
    return Pair(seed, Race(True, 30, 10.0 * ratio), Race(True, 30, 10.0))


def test_a_change_that_is_faster_with_every_seed_passes_at_the_first_look() -> None:
    found = decide(lambda seed: pair_of(seed, 0.5), 0.9, Plan(), range(40))

    assert found.verdict is Verdict.PASS
    assert found.estimate.num_pairs == 8
    assert verdict_line(found, 0.9).startswith("pass: the time to the reward is 0.50 [0.50, 0.50] of the base's")


def test_the_same_speed_fails_and_a_few_seeds_say_nothing() -> None:
    ratios = [1.0 + 0.02 * (seed % 3) for seed in range(40)]
    assert decide(lambda seed: pair_of(seed, ratios[seed]), 0.9, Plan(), range(40)).verdict is Verdict.FAIL
    assert decide(lambda seed: pair_of(seed, 0.5), 0.9, Plan(), range(3)).verdict is Verdict.INCONCLUSIVE


def test_a_run_that_gave_up_counts_against_its_arm() -> None:
    reached, gave_up = Race(True, 30, 10.0), Race(False, 200, 40.0)
    assert Pair(0, reached, gave_up).ratio("seconds") == 0.25
    assert Pair(0, gave_up, reached).ratio("seconds") == NEVER
    with pytest.raises(ValueError, match="seed 3: neither arm reached the reward"):
        decide(lambda seed: Pair(seed, gave_up, gave_up), 0.9, Plan(), [3])


@pytest.mark.parametrize("spread", [0.1, 0.5])
def test_on_the_threshold_it_rarely_passes_and_far_below_it_mostly_does(spread: float) -> None:
    """The error is that of the sign test, whatever the spread; 400 runs are 4 standard errors of 0.7 % each."""
    on = simulate(0.9, spread, 0.9, Plan(), 400)
    below = simulate(0.9 * math.exp(-2 * spread), spread, 0.9, Plan(), 400)

    assert on.passed <= PASS_ALPHA + 4 * 0.007
    assert on.failed <= 0.01 + 4 * 0.005
    assert below.passed > 0.98
    assert below.failed == 0
    assert below.mean_pairs < on.mean_pairs


def test_the_rates_are_a_table() -> None:
    lines = list(rate_lines(0.2, 0.9, Plan(), 20, (1.0, 0.7)))
    assert lines[0] == "| true ratio | pass | fail | inconclusive | pairs |"
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| 1.00", "| 0.70"]
    assert math.isnan(spread_of([pair_of(0, 1.0)], "seconds"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--set: what is to be compared?"),
        (["--set", "training.updates=2"], "unknown key"),
        (["--set", "training.updates_per_batch=2", "--window", "300"], "--window 300: allowed are 1 to --max-steps"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


@pytest.mark.slow
def test_two_arms_are_raced(model_folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A reward of 0 is reached by the first full window, so that the test is about what is raced and shown."""
    small = [
        "--base",
        f'model.name="{model_folder}"',
        "--base",
        "rollout.num_groups=1",
        "--base",
        "rollout.group_size=2",
    ]
    told = ["--reward", "0", "--window", "2", "--max-steps", "4", "--pairs", "2", "--json", str(tmp_path / "race.json")]
    assert main([*small, "--set", "training.updates_per_batch=2", *told]) == 1

    printed = capsys.readouterr().out
    assert "| 0 | 2 | 2 |" in printed
    assert "inconclusive: the time to the reward is" in printed
    found = json.loads((tmp_path / "race.json").read_text())
    assert [pair["seed"] for pair in found["pairs"]] == [0, 1]
    assert all(pair["changed"] > 0 and pair["base"] > 0 for pair in found["pairs"])
