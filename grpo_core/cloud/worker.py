"""A rollout worker: plays environments on a CPU and asks an engine that is somewhere else."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from grpo_core.cloud.remote_engine import RemoteEngine
from grpo_core.config import GrpoConfig
from grpo_core.environments import make_environment_factory
from grpo_core.environments.state_cache import StateCache
from grpo_core.home import Home
from grpo_core.model.tokenizer import load_tokenizer
from grpo_core.rollout.play.collector import Collector
from grpo_core.rollout.protocol import AdapterSwap
from grpo_core.types import Batch


def play_groups(
    config: GrpoConfig, home: Home, engine: RemoteEngine, version: int, index: int, groups: range
) -> tuple[Batch, AdapterSwap]:
    """The ``groups`` of batch ``index``, sampled from ``version``, and what it took to have that version there.

    The same groups come out whoever plays the others: together they are the batch of one collector.

    Raises:
        GrpoError: as ``Collector.collect``, or the engine was lost twice.
    """
    swap = engine.use_version(version)
    collector = Collector(
        engine,
        load_tokenizer(config.model.name),
        make_environment_factory(config.environment),
        config.rollout,
        model_fingerprint=engine.model_fingerprint,
        state_cache=StateCache(home.states) if config.environment.use_state_cache else None,
        want_ref_logprobs=config.training.kl_coefficient > 0 and engine.scores_in_one_pass,
        groups=groups,
    )
    return collector.collect(index), swap


def summarize(batch: Batch, swap: AdapterSwap, num_asked_again: int) -> dict[str, Any]:
    """What is told of the groups that were played: their version, rewards and statistics, for JSON."""
    rewards = [trajectory.reward for group in batch.groups for trajectory in group.trajectories]
    return {
        "policy_version": swap.policy_version,
        "adapter_cache_hit": swap.cache_hit,
        "adapter_load_ms": swap.load_ms,
        "num_asked_again": num_asked_again,
        "reward_mean": sum(rewards) / max(len(rewards), 1),
        "tokens_per_second": batch.stats.tokens_per_second,
        **asdict(batch.stats),
    }
