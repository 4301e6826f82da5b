"""With xdist, timing gates take turns: two that run at the same moment would measure each other.

The controller hands each worker the path of a lock file. A worker holds the lock from the setup of a test that measures
arms to the end of its teardown. All other tests run in parallel. The lock ends with its process, so that a worker that
dies blocks no other.
"""

from __future__ import annotations

import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_grpo.settings.config import is_xdist_worker
from pytest_grpo.settings.phases import without_fixture

if TYPE_CHECKING:
    from xdist.workermanage import WorkerController

_LOCK = "grpo_timing_lock"
"""The key of the lock file's path in what xdist sends to its workers."""


def register_turns(config: pytest.Config) -> None:
    """Let the workers of an xdist session take turns."""
    if is_xdist_worker(config):
        path = config.workerinput[_LOCK]  # pyright: ignore[reportAttributeAccessIssue] set by xdist
        config.pluginmanager.register(Turns(Path(path)), "grpo-turns")
    else:
        config.pluginmanager.register(TurnsOfWorkers(), "grpo-turns")


class TurnsOfWorkers:
    """The controller's part."""

    def __init__(self) -> None:
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: WorkerController) -> None:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="grpo-turns-")
        node.workerinput[_LOCK] = str(Path(self._folder.name) / "timing.lock")

    def pytest_unconfigure(self) -> None:
        if self._folder is not None:
            self._folder.cleanup()


class Turns:
    """A worker's part."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        _, measuring = without_fixture([item], "grpo_arms")
        if not measuring:
            return (yield)
        from filelock import FileLock

        with FileLock(self._path):
            return (yield)
