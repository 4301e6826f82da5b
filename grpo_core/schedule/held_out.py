"""Greedy answers to questions that training never asks: does the reward come from more than learning them by heart?"""

from __future__ import annotations

from grpo_core.environments import make_environment_factory
from grpo_core.rollout.play.build import build_collector
from grpo_core.schedule.stack import LocalStack
from grpo_core.types import MIN_TEMPERATURE

NUM_QUESTIONS = 64


def num_right_held_out(stack: LocalStack) -> int:
    """Of ``NUM_QUESTIONS`` held-out questions of ``arithmetic``: those that the trainer's policy answers right, if it
    takes the most probable token each time. The run's own random numbers stay as they are.

    Raises:
        GrpoError: as ``Collector.collect``.
    """
    environment = stack.config.environment.model_copy(update={"questions": "held_out"})
    rollout = stack.config.rollout.model_copy(
        update={"num_groups": NUM_QUESTIONS, "group_size": 1, "temperature": MIN_TEMPERATURE, "max_refill_rounds": 0}
    )
    config = stack.config.model_copy(update={"environment": environment, "rollout": rollout})
    factory = make_environment_factory(environment)
    collector = build_collector(config, stack.home, stack.engine, stack.tokenizer, factory)
    collector.use_version(stack.trainer.version)
    groups = collector.collect(0).groups
    return sum(trajectory.reward == 1.0 for group in groups for trajectory in group.trajectories)
