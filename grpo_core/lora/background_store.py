"""A store that publishes in a thread, so that a step need not wait for checksums and for the disk."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

from grpo_core.lora.store import AdapterStore, Stamp
from grpo_core.types import PolicyVersion, PolicyWeights


class BackgroundStore(AdapterStore):
    """Inside ``publishing``, ``publish_soon`` returns at once, unless the version before is still being written.

    The order and the wholeness of what is on disk are those of ``AdapterStore``; only the newest version may be missing
    when a process is killed. Until it is there, ``load`` gives the weights in memory, and ``folder_of`` waits.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._pool: ThreadPoolExecutor | None = None
        self._writing: Future[None] | None = None
        self._in_memory: PolicyWeights | None = None  # what is being written
        self._own_stamps: dict[PolicyVersion, tuple[Stamp | None, Stamp]] = {}  # on disk, and since before it was there
        self._numbers = itertools.count(1)
        self._state = Lock()

    @contextmanager
    def publishing(self) -> Iterator[None]:
        with ThreadPoolExecutor(1, thread_name_prefix="publishing") as self._pool:
            try:
                yield
            finally:
                self._pool = None

    def publish_soon(self, weights: PolicyWeights, keep_last: int) -> None:
        """As ``AdapterStore.publish_soon``. Raises what the version before met, too: then that one is not on disk."""
        if self._pool is None:
            super().publish_soon(weights, keep_last)
            return
        self.wait()
        with self._state:
            kept = [pair for pair in self._own_stamps.items() if pair[0] != weights.version][-keep_last:]
            self._own_stamps = dict(kept) | {weights.version: (None, (0, -next(self._numbers)))}
            self._in_memory = weights
            self._writing = self._pool.submit(self._write, weights, keep_last)

    def wait(self) -> None:
        try:
            if self._writing is not None:
                self._writing.result()
        finally:
            self._writing = None

    def load(self, version: PolicyVersion) -> PolicyWeights:
        with self._state:
            if self._in_memory is not None and self._in_memory.version == version:
                return self._in_memory
        return super().load(version)

    def folder_of(self, version: PolicyVersion) -> Path:
        self._finish(version)
        return super().folder_of(version)

    def stamp_of(self, version: PolicyVersion) -> Stamp | None:
        """As ``AdapterStore.stamp_of``: the same while the version is in memory and when it is on disk."""
        with self._state:
            on_disk, own = self._own_stamps.get(version, (None, None))
            if self._in_memory is not None and self._in_memory.version == version:
                return own
            found = super().stamp_of(version)
        return own if found is not None and found == on_disk else found

    def publish(self, weights: PolicyWeights) -> Path:
        self.wait()
        return super().publish(weights)

    def discard_after(self, run: str, number: int) -> None:
        self.wait()
        super().discard_after(run, number)

    def _write(self, weights: PolicyWeights, keep_last: int) -> None:
        try:
            super().publish(weights)
        finally:
            with self._state:
                own = self._own_stamps[weights.version][1]
                self._own_stamps[weights.version] = (super().stamp_of(weights.version), own)
                self._in_memory = None
        self.prune(weights.version.run, keep_last)

    def _finish(self, version: PolicyVersion) -> None:
        """Wait while ``version`` is being written, also in another thread than the one that publishes."""
        with self._state:
            is_written = self._in_memory is not None and self._in_memory.version == version
            writing = self._writing
        if is_written and writing is not None:
            writing.exception()  # waits for it
