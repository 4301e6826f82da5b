"""Adapter stores on a volume: one that a machine publishes to, and one where others see what it published."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from threading import Lock

from grpo_core.lora.store import AdapterStore
from grpo_core.types import PolicyVersion, PolicyWeights


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


class ReloadedAdapterStore(AdapterStore):
    """Shows what was on the volume at the last ``look_again``. Nothing is read then: a volume is not reloaded while
    files are open."""

    def __init__(self, folder: Path, reload: Callable[[], None]) -> None:
        super().__init__(folder)
        self._reload = reload
        self._reading = Lock()

    def look_again(self) -> None:
        """Show what other machines have committed up to now."""
        with self._reading:
            self._reload()

    def load(self, version: PolicyVersion) -> PolicyWeights:
        with self._reading:
            return super().load(version)

    def folder_of(self, version: PolicyVersion) -> Path:
        with self._reading:
            return super().folder_of(version)
