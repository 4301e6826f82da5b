"""Builds the request of each phase from the collected tests."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from pytest_grpo.gate.stash import NUM_GATES
from pytest_grpo.remote.project_files import ProjectFiles, code_digests, file_digests, find_files, pack
from pytest_grpo.remote.protocol import Request
from pytest_grpo.reports import pytest_benchmark
from pytest_grpo.session.stored_results import STORED
from pytest_grpo.settings.config import PLUGIN_CONFIG, PluginConfig
from pytest_grpo.settings.phases import phases_of
from pytest_grpo.settings.run import RunSettings
from pytest_grpo.types import SIDE_FOLDER


@dataclass(frozen=True, slots=True)
class OtherTree:
    """Another version of the project, which workers compare with this one."""

    root: Path
    arguments: tuple[str, ...]
    """Those of pytest that ask for it."""


class RequestBuilder:
    """Builds requests; lists the files and reads their code once, for the first request."""

    def __init__(self, config: pytest.Config, other: OtherTree | None = None) -> None:
        self._config = config
        self._other = other
        self._beside: dict[str, Path] = {}
        """The files of the other tree, by their place in the archive."""
        self._collected: dict[int, list[str]] = {}
        self._files: ProjectFiles | None = None
        self._code: dict[str, str] = {}

    def archive(self) -> bytes:
        """The files of the project to send, and those of the other tree in a folder of their own.

        Raises:
            TreeError: they are too large together.
        """
        return pack(self._config.rootpath, self._find().sent, self._beside)

    def _find(self) -> ProjectFiles:
        if self._files is None:
            self._files = find_files(self._config.rootpath)
            self._code = code_digests(self._config.rootpath, self._files.sent)
            if self._other is not None:
                self._add(self._other.root, find_files(self._other.root))
        return self._files

    def _add(self, root: Path, found: ProjectFiles) -> None:
        assert self._files is not None, "found first"
        self._beside = {f"{SIDE_FOLDER}/{name}": root / name for name in found.sent}
        self._code |= {f"{SIDE_FOLDER}/{name}": digest for name, digest in file_digests(root, found.sent).items()}
        self._files = replace(self._files, secrets=sorted({*self._files.secrets, *found.secrets}))

    @property
    def secrets(self) -> list[str]:
        """The files that are not sent since they look like secrets; none before the first request."""
        return [] if self._files is None else self._files.secrets

    def note_collected(self, items: Iterable[pytest.Item]) -> None:
        """Keep the tests of files that were collected completely."""
        if self._config.getoption("lf", False):
            return  # --lf skips tests and files during collection
        parts = [_stem(argument) for argument in self._config.args if "::" in argument]
        for item in items:
            if not any(part.endswith(_stem(item.nodeid).rpartition("/")[2]) for part in parts):
                self._collected.setdefault(min(phases_of(item), default=-1), []).append(item.nodeid)

    def of_phase(self, phase: int, items: Iterable[pytest.Item]) -> Request:
        self._find()
        return Request(
            phase=phase,
            node_ids=tuple(item.nodeid for item in items if min(phases_of(item), default=None) == phase),
            collected=tuple(self._collected.get(phase, ())),
            arguments=self._arguments() + (self._other.arguments if self._other else ()),
            code=self._code,
            root=str(self._config.rootpath),
            baselines=self._config.stash[STORED].baseline_texts(),
            wants_machine_info=pytest_benchmark.wants_machine_info(self._config),
        )

    def _arguments(self) -> tuple[str, ...]:
        run = self._config.stash[PLUGIN_CONFIG].run
        return forwarded_arguments(self._config, _config_file(self._config), run, self._config.rootpath)


def _stem(nodeid: str) -> str:
    """The file of ``nodeid``, or with ``--pyargs`` the module, without a suffix."""
    return nodeid.partition("::")[0].removesuffix(".py")


def _config_file(config: pytest.Config) -> str | None:
    is_sent = config.inipath is not None and config.inipath.is_relative_to(config.rootpath)
    return config.inipath.relative_to(config.rootpath).as_posix() if is_sent and config.inipath else None


def forwarded_arguments(
    config: pytest.Config, config_file: str | None, run: RunSettings, root: Path | None = None
) -> tuple[str, ...]:
    """pytest's options for the worker that judges ``run``; ``config_file``, relative to its root, gives the rest.

    With ``root``, the worker has the files below it, and no others.

    Options of other plugins, except pytest-benchmark, are unknown here and not forwarded.
    """
    settings = config.stash[PLUGIN_CONFIG]
    num_gates = settings.num_gates or max(1, config.stash.get(NUM_GATES, 1))
    return (
        *_of_pytest(config, config_file),
        *pytest_benchmark.run_arguments(config),
        f"--grpo-num-gates={num_gates}",
        *_of_grpo(settings),
        *run.options(root),
    )


def _of_pytest(config: pytest.Config, config_file: str | None) -> list[str]:
    arguments = ["--rootdir=.", "-p", "no:cacheprovider", "--color=no", f"--tb={config.getoption('tbstyle')}"]
    arguments += [f"--verbosity={config.getoption('verbose')}", f"--import-mode={config.getoption('importmode')}"]
    if config_file is not None:
        arguments += ["-c", config_file]
    for name in config.getoption("plugins") or ():
        arguments += ["-p", name]
    for override in config.getoption("override_ini") or ():
        arguments += ["-o", override]
    for warning_filter in config.getoption("pythonwarnings") or ():
        arguments += ["-W", warning_filter]
    if config.getoption("showlocals"):
        arguments.append("--showlocals")
    if config.getoption("runxfail"):
        arguments.append("--runxfail")
    if config.getoption("maxfail"):
        arguments.append(f"--maxfail={config.getoption('maxfail')}")
    return arguments


def _of_grpo(settings: PluginConfig) -> list[str]:
    arguments = [f"--grpo-pairs={','.join(map(str, settings.looks))}", f"--grpo-budget={settings.budget_s:g}"]
    each = "fail" if settings.inconclusive == "fail" else "xfail"  # the session that asks counts them all
    arguments += [f"--grpo-system={settings.system}", f"--grpo-inconclusive={each}"]
    arguments += ["-o", f"grpo_max_cores_of_others={settings.max_cores_of_others:g}"]
    if not settings.has_control:
        arguments += ["-o", "grpo_control=false"]
    if settings.compare is not None:
        arguments.append(f"--grpo-tolerance={settings.tolerance:g}")  # the worker adds --grpo-compare itself
    if settings.any_machine:
        arguments.append("--grpo-any-machine")
    if settings.versus is not None:
        arguments.append(f"--grpo-versus={settings.versus}")
    if settings.device_profile is not None:
        arguments.append(f"--grpo-device-profile={settings.device_profile}")
    return arguments + [f"--grpo-threshold={text}" for _, text in settings.threshold_overrides]
