"""A run's collector, built from its configuration."""

from __future__ import annotations

from typing import Protocol

from grpo_core.config import GrpoConfig
from grpo_core.environments.protocol import EnvironmentFactory
from grpo_core.environments.state_cache import StateCache
from grpo_core.home import Home
from grpo_core.model.tokenizer import Tokenizer
from grpo_core.rollout.play.collector import Collector
from grpo_core.rollout.protocol import RolloutEngine


class DescribedEngine(RolloutEngine, Protocol):
    """A ``LocalEngine``, or one elsewhere that says the same about itself."""

    @property
    def model_fingerprint(self) -> str: ...

    @property
    def scores_in_one_pass(self) -> bool: ...


def build_collector(
    config: GrpoConfig,
    home: Home,
    engine: DescribedEngine,
    tokenizer: Tokenizer,
    factory: EnvironmentFactory,
    groups: range | None = None,
) -> Collector:
    """The collector that plays ``groups`` of each batch of ``config``, by default all, and samples from ``engine``."""
    return Collector(
        engine,
        tokenizer,
        factory,
        config.rollout,
        model_fingerprint=engine.model_fingerprint,
        state_cache=StateCache(home.states) if config.environment.use_state_cache else None,
        want_ref_logprobs=config.training.kl_coefficient > 0 and engine.scores_in_one_pass,
        groups=groups,
    )
