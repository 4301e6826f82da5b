"""This project, on-policy: sampler and trainer take turns."""

from __future__ import annotations

import time
from pathlib import Path

from bench.learning_arms.run import LearningRun, Start, Task
from grpo_core.config import GrpoConfig, build_config
from grpo_core.home import Home
from grpo_core.schedule.stack import build_stack


def task_config(task: Task) -> GrpoConfig:
    return build_config(
        {
            "run": "learning",
            "model": {"name": task.model, "device": "cpu"},
            "environment": {"name": "arithmetic"},
            "rollout": {
                "num_groups": task.num_groups,
                "group_size": task.group_size,
                "max_completion_tokens": task.max_completion_tokens,
                "seed": task.seed,
            },
            "training": {"kl_coefficient": 0.0},
            "schedule": {"num_steps": task.num_steps, "max_policy_lag_steps": 0},
        }
    )


def learn(task: Task, folder: Path) -> tuple[LearningRun, Start]:
    """The run, and its start for the other arm."""
    stack = build_stack(task_config(task), Home(data=folder / "data", traces=folder / "traces"))
    weights = dict(stack.trainer.weights().tensors)
    rewards: list[float] = []
    seconds: list[float] = []
    questions: list[str] = []
    start = time.perf_counter()
    for index in range(task.num_steps):
        batch = stack.collector.collect(index)
        questions += [stack.tokenizer.decode(group.trajectories[0].turns[0].prompt_ids) for group in batch.groups]
        rewards.append(stack.trainer.step(batch).reward_mean)
        stack.store.publish(stack.trainer.weights())
        stack.engine.use_version(stack.trainer.version)
        seconds.append(time.perf_counter() - start)
    return LearningRun(tuple(rewards), tuple(questions), tuple(seconds)), Start(tuple(questions), weights)
