"""A collector's policy, tokenizer and engine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpo_core.config import RolloutConfig
from grpo_core.environments import EnvironmentFactory
from grpo_core.environments.state_cache import StateCache
from grpo_core.model.policy import Policy
from grpo_core.model.tokenizer import Tokenizer
from grpo_core.rollout.play.collector import Collector
from grpo_core.rollout.protocol import RolloutEngine

SMALL = RolloutConfig(num_groups=3, group_size=4, max_completion_tokens=6)
TINY = RolloutConfig(num_groups=2, group_size=2, max_completion_tokens=6)


@dataclass
class Rooms:
    """What a collector needs besides its environment."""

    policy: Policy
    tokenizer: Tokenizer
    engine: RolloutEngine

    def collector(
        self, factory: EnvironmentFactory, config: RolloutConfig = SMALL, states: Path | None = None, **options: Any
    ) -> Collector:
        return Collector(
            self.engine,
            self.tokenizer,
            factory,
            config,
            model_fingerprint=self.policy.fingerprint,
            state_cache=StateCache(states) if states is not None else None,
            **options,
        )
