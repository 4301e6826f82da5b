"""An adapter store on a volume that other machines read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from grpo_core.lora.store import AdapterStore
from grpo_core.types import PolicyWeights


class SharedAdapterStore(AdapterStore):
    """Commits what it publishes before anybody can be told of it.

    The objects of a version are written before its reference and a commit follows both, in the one thread that
    publishes: who reloads sees that version whole, or an earlier one.
    """

    def __init__(self, folder: Path, commit: Callable[[], None]) -> None:
        super().__init__(folder)
        self._commit = commit

    def publish(self, weights: PolicyWeights) -> Path:
        path = super().publish(weights)
        self._commit()
        return path
