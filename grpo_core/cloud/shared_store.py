"""An adapter store on a volume that other machines read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from grpo_core.lora.store import AdapterStore
from grpo_core.types import PolicyWeights


class SharedAdapterStore(AdapterStore):
    """Commits a version before ``publish`` returns, so before any other machine is told of it.

    A version's object is written before its reference, and a commit follows both in the one thread that publishes. So a
    machine that reloads sees the version whole, or an earlier one.
    """

    def __init__(self, folder: Path, commit: Callable[[], None]) -> None:
        super().__init__(folder)
        self._commit = commit

    def publish(self, weights: PolicyWeights) -> Path:
        path = super().publish(weights)
        self._commit()
        return path
