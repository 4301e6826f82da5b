"""Rollout workers on other machines, as one collector: each plays some groups of every batch."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from grpo_core.errors import EpisodeError
from grpo_core.ledger import spans
from grpo_core.rollout.play.episode import EpisodeFailure
from grpo_core.rollout.protocol import AdapterSwap
from grpo_core.types import Batch, RolloutStats, added_up

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Shard:
    """The part of one batch that one worker plays: ``num_groups`` groups from ``first_group``."""

    index: int
    version: int
    first_group: int
    num_groups: int


PlayShards = Callable[[Sequence[Shard]], Iterable[Batch | Exception]]


class RolloutFleet:
    """A ``BatchCollector`` over remote workers. ``play`` runs all shards and returns their results in order.

    If a shard fails, the batch goes on without its groups, and a log line says so.
    """

    def __init__(self, num_groups: int, num_workers: int, play: PlayShards) -> None:
        assert num_workers > 0
        self.policy_version = 0
        self._num_groups = num_groups
        self._num_workers = min(num_workers, num_groups)
        self._play = play

    @property
    def failures(self) -> tuple[EpisodeFailure, ...]:
        """Always empty: workers repeat failed episodes themselves, and log them."""
        return ()

    def use_version(self, number: int) -> AdapterSwap:
        """Sample the next batch from ``number``. The engines load it at the first request for it."""
        self.policy_version = number
        return AdapterSwap(number, cache_hit=False, load_ms=0.0, swap_ms=0.0)

    def collect(self, index: int) -> Batch:
        """As ``Collector.collect``, from many workers at once.

        Raises:
            EpisodeError: every shard failed.
        """
        start = time.perf_counter()
        shards = list(self._shards(index))
        with spans.WAIT_WORKERS:
            results = list(self._play(shards))
        batches = [result for result in results if isinstance(result, Batch)]
        for shard, result in zip(shards, results, strict=True):
            if isinstance(result, Exception):
                last = shard.first_group + shard.num_groups - 1
                logger.warning("batch %d goes on without groups %d to %d: %s", index, shard.first_group, last, result)
        if not batches:
            (first, *_) = (result for result in results if isinstance(result, Exception))
            raise EpisodeError(f"batch {index}: every rollout worker failed; the first one with: {first}") from first
        return Batch(
            index=index,
            policy_version=self.policy_version,
            groups=tuple(group for batch in batches for group in batch.groups),
            stats=_add_up([batch.stats for batch in batches], time.perf_counter() - start),
        )

    def _shards(self, index: int) -> Iterable[Shard]:
        """Split the groups as evenly as possible."""
        bounds = [self._num_groups * place // self._num_workers for place in range(self._num_workers + 1)]
        for first, end in itertools.pairwise(bounds):
            yield Shard(index, self.policy_version, first, end - first)


def _add_up(stats: Sequence[RolloutStats], duration_s: float) -> RolloutStats:
    num_trajectories = sum(one.num_trajectories for one in stats)
    reward_sum = sum(one.sampled_reward_mean * one.num_trajectories for one in stats)
    return RolloutStats(
        duration_s=duration_s,
        num_prompt_tokens=sum(one.num_prompt_tokens for one in stats),
        num_prefill_tokens=sum(one.num_prefill_tokens for one in stats),
        num_completion_tokens=sum(one.num_completion_tokens for one in stats),
        num_completions=sum(one.num_completions for one in stats),
        num_failed_episodes=sum(one.num_failed_episodes for one in stats),
        num_sampled_groups=sum(one.num_sampled_groups for one in stats),
        num_replaced_groups=sum(one.num_replaced_groups for one in stats),
        num_refilled_groups=sum(one.num_refilled_groups for one in stats),
        num_zero_variance_groups=sum(one.num_zero_variance_groups for one in stats),
        num_trajectories=num_trajectories,
        sampled_reward_mean=reward_sum / max(num_trajectories, 1),
        reward_functions=added_up(function for one in stats for function in one.reward_functions),
        num_sampled_tokens=sum(one.num_sampled_tokens for one in stats),
        num_preempted_tokens=sum(one.num_preempted_tokens for one in stats),
        num_unused_tokens=sum(one.num_unused_tokens for one in stats),
        num_replaced_tokens=sum(one.num_replaced_tokens for one in stats),
        num_cached_tokens=sum(one.num_cached_tokens for one in stats),
        num_decode_steps=sum(one.num_decode_steps for one in stats),
        num_decode_rows=sum(one.num_decode_rows for one in stats),
        num_preemptions=sum(one.num_preemptions for one in stats),
        kv_share_steps=sum(one.kv_share_steps for one in stats),
    )
