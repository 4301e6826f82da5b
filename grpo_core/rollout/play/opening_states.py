"""The state cache as the collector uses it: states after an opening, by all that they depend on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from grpo_core.config import RolloutConfig
from grpo_core.environments.protocol import Environment
from grpo_core.environments.state_cache import StateCache


class OpeningStates:
    """States after the openings of a run, by the place in the batch and its number of replacements.

    ``origin`` names what else an opening depends on: environment, model, prompts. Without a ``cache`` nothing is kept.
    """

    def __init__(self, cache: StateCache | None, config: RolloutConfig, origin: Mapping[str, str]) -> None:
        self._cache = cache
        self._key: dict[str, str | int] = {
            **origin,
            "temperature": str(config.temperature),
            "top_p": str(config.top_p),
            "top_k": config.top_k,
            "min_p": str(config.min_p),
            "max_completion_tokens": config.max_completion_tokens,
            "seed": config.seed,
        }

    def get(self, place: int, refill: int) -> dict[str, Any] | None:
        """The snapshot, None where there is none."""
        return None if self._cache is None else self._cache.get(self._key_of(place, refill))

    def put(self, place: int, refill: int, environment: Environment) -> None:
        """Keep the state of ``environment``, whose opening is over."""
        if self._cache is not None:
            self._cache.put(self._key_of(place, refill), environment.snapshot())

    def _key_of(self, place: int, refill: int) -> dict[str, str | int]:
        key = self._key | {"group": place}
        return key | {"refill": refill} if refill else key
