"""It learns: the whole loop, on the embedded task and model, gains what chance cannot explain."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import beta, binom

from grpo_core.cli import main
from grpo_core.config import build_config
from grpo_core.home import Home
from grpo_core.schedule.loop import train
from grpo_core.schedule.stack import LocalStack, build_stack
from grpo_core.telemetry.events import Telemetry

STATED_REWARD = 0.3  # mean reward of the trained policy; the base policy has about half of it
NUM_STEPS = 60
NUM_GROUPS = 32  # with 16 the reward moves by 0.1 a step, and ends where the last bits of a processor lead it
EVALUATION = range(1000, 1008)  # batches of 256 answers, to questions that both policies get


def num_right(stack: LocalStack, version: int) -> tuple[int, int]:
    """Right answers and answers of policy ``version``."""
    stack.collector.use_version(version)
    batches = [stack.collector.collect(index) for index in EVALUATION]
    rewards = [t.reward for batch in batches for group in batch.groups for t in group.trajectories]
    return int(sum(rewards)), len(rewards)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "full"])
def test_training_reaches_its_reward_and_beats_the_base_policy_beyond_chance(method: str, tmp_path: Path) -> None:
    """With the base policy's rate taken at the top of what its own answers allow (1 - 1e-7), the trained policy's
    count of right answers has probability below 1e-6. Both answer the same questions, so the count of an untrained
    policy is a sum of independent trials, whose tail the binomial bounds (Hoeffding 1956)."""
    config = build_config(
        {
            "run": "learning",
            "environment": {"name": "arithmetic"},
            "rollout": {"num_groups": NUM_GROUPS},
            "training": {"method": method, "kl_coefficient": 0.0},
            "schedule": {"num_steps": NUM_STEPS, "max_policy_lag_steps": 0},
        }
    )
    stack = build_stack(config, Home(data=tmp_path / "data", traces=tmp_path / "traces"))
    train(stack, Telemetry("learning", ()), save_checkpoints=False)
    base, num_answers = num_right(stack, 0)
    trained, _ = num_right(stack, NUM_STEPS)
    highest_base_rate = float(beta.ppf(1 - 1e-7, base + 1, num_answers - base))
    chance = float(binom.sf(trained - 1, num_answers, highest_base_rate))
    assert chance < 1e-6, f"{base} right before, {trained} after, of {num_answers}"
    assert trained > 1.2 * base
    assert trained / num_answers >= STATED_REWARD, f"{base} right before, {trained} after, of {num_answers}"


@pytest.mark.slow
def test_the_first_run_of_a_user_learns_also_what_it_is_never_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GRPO_HOME", str(tmp_path))
    assert main(["train", "--run", "first", "--device", "cpu"]) == 0

    printed = capsys.readouterr().out
    rewards = [float(reward) for reward in re.findall(r"^step \d+: reward ([\d.]+)", printed, flags=re.MULTILINE)]
    first, last = np.mean(rewards[:3]), np.mean(rewards[-10:])
    assert first <= 0.35
    assert last >= 0.8, "the docs say 0.95, of one processor; each builds and trains a model of its own"
    held_out = re.search(r"greedy answers: (\d+) of 64 right; before training (\d+) of 64", printed)
    assert held_out is not None
    after, before = map(int, held_out.groups())
    assert after >= before + 30
    assert printed.count("|") >= 6, "the curve"
