"""A rollout worker: plays environments on a CPU and asks an engine that is somewhere else."""

from __future__ import annotations

from grpo_core.cloud.distant_engine import DistantEngine
from grpo_core.config import GrpoConfig
from grpo_core.environments import make_environment_factory
from grpo_core.environments.state_cache import StateCache
from grpo_core.home import Home
from grpo_core.model import load_tokenizer
from grpo_core.rollout.collector import Collector
from grpo_core.rollout.protocol import AdapterSwap
from grpo_core.types import Batch


def play_groups(
    config: GrpoConfig, home: Home, engine: DistantEngine, version: int, index: int, groups: range
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
