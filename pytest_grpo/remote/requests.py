"""Makes the request of each phase from the tests that were collected here."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from pytest_grpo.remote.arguments import forwarded_arguments
from pytest_grpo.remote.protocol import Request
from pytest_grpo.remote.tree import code_digests, list_files
from pytest_grpo.reports import pytest_benchmark
from pytest_grpo.session.stored_results import STORED
from pytest_grpo.settings.phases import phases_of


class Requests:
    """The files are listed and their code is read once, when the first phase is needed."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._collected: dict[int, list[str]] = {}
        self._files: list[str] | None = None
        self._code: dict[str, str] = {}

    @property
    def files(self) -> list[str]:
        """The files of the project that travel."""
        if self._files is None:
            self._files = list_files(self._config.rootpath)
            self._code = code_digests(self._config.rootpath, self._files)
        return self._files

    def note_collected(self, items: Iterable[pytest.Item]) -> None:
        """Keep what was collected from files that were collected whole."""
        if self._config.getoption("lf", False):
            return  # it leaves out tests, and files, while they are collected
        parts = [argument for argument in self._config.args if "::" in argument]
        for item in items:
            name = item.nodeid.partition("::")[0]
            if not any(argument.partition("::")[0].endswith(name.rpartition("/")[2]) for argument in parts):
                self._collected.setdefault(min(phases_of(item), default=-1), []).append(item.nodeid)

    def of_phase(self, phase: int, items: Iterable[pytest.Item]) -> Request:
        assert self.files is not None
        return Request(
            phase=phase,
            node_ids=tuple(item.nodeid for item in items if min(phases_of(item), default=None) == phase),
            collected=tuple(self._collected.get(phase, ())),
            arguments=forwarded_arguments(self._config),
            code=self._code,
            root=str(self._config.rootpath),
            baseline=self._config.stash[STORED].baseline_text(),
            wants_machine_info=pytest_benchmark.wants_machine_info(self._config),
        )
