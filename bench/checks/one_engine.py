"""Two stacks over one engine. Two vLLMs with the same settings differed in speed by up to 8 % as long as they ran."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from grpo_core.config import GrpoConfig
    from grpo_core.schedule.stack import LocalStack


def takes_engine_of(config: GrpoConfig, other: GrpoConfig) -> bool:
    """Whether the engines of both are opened with the same settings."""

    def settings(of: GrpoConfig) -> tuple[object, ...]:
        rollout = of.rollout
        lag = of.schedule.max_policy_lag_steps
        return of.model, rollout.engine, rollout.max_batch_sequences, rollout.max_kv_bytes, lag

    return settings(config) == settings(other)


def beside(stack: LocalStack, config: GrpoConfig) -> LocalStack:
    """A stack of ``config`` with the engine of ``stack``. It also has the trainer of ``stack``: do not train it."""
    from grpo_core.config.packages import is_own
    from grpo_core.environments import make_environment_factory
    from grpo_core.rollout.play.build import build_collector

    environment = config.environment
    factory = make_environment_factory(environment, stack.tokenizer if is_own(environment.name) else None)
    collector = build_collector(config, stack.home, stack.engine, stack.tokenizer, factory)
    return replace(stack, config=config, collector=collector)
