"""A rollout worker: plays environments on a CPU with completions of a remote engine."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from grpo_core.cloud.remote_engine import RemoteEngine
from grpo_core.config import GrpoConfig
from grpo_core.environments import make_environment_factory
from grpo_core.home import Home
from grpo_core.ledger import spans
from grpo_core.ledger.account import Account
from grpo_core.ledger.recorder import recording
from grpo_core.model.tokenizer import load_tokenizer
from grpo_core.rollout.play.build import build_collector
from grpo_core.rollout.protocol import AdapterSwap
from grpo_core.types import Batch


def play_groups(
    config: GrpoConfig, home: Home, engine: RemoteEngine, version: int, index: int, groups: range
) -> tuple[Batch, AdapterSwap, list[Account]]:
    """The ``groups`` of batch ``index``, sampled from ``version``, the cost of the swap to it, and where the time went.

    The split among workers does not matter: together their groups are the batch of a single collector.

    Raises:
        GrpoError: as ``Collector.collect``, or the engine was lost twice.
    """
    with recording("worker", "rollout") as recorder:
        swap = engine.use_version(version)
        with spans.START:
            tokenizer = load_tokenizer(config.model.name, add_bos=config.model.add_bos)
            factory = make_environment_factory(config.environment, tokenizer)
            collector = build_collector(config, home, engine, tokenizer, factory, groups)
        batch = collector.collect(index)
        return batch, swap, recorder.cut()


def summarize(batch: Batch, swap: AdapterSwap, num_asked_again: int) -> dict[str, Any]:
    """A summary of the played groups for JSON: version, rewards and statistics."""
    rewards = [trajectory.reward for group in batch.groups for trajectory in group.trajectories]
    return {
        "policy_version": swap.policy_version,
        "adapter_cache_hit": swap.cache_hit,
        "adapter_load_ms": swap.load_ms,
        "num_asked_again": num_asked_again,
        "reward_mean": sum(rewards) / max(len(rewards), 1),
        "tokens_per_second": batch.stats.tokens_per_second,
        **asdict(batch.stats),
        "reward_functions": [asdict(function) for function in batch.stats.reward_functions],
    }
