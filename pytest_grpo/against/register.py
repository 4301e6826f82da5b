"""Sets up a session that compares two versions."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_grpo.against.expecting import parse_expected
from pytest_grpo.against.findings_report import FindingsReport
from pytest_grpo.against.session import AgainstSession, is_compared
from pytest_grpo.against.side import Side
from pytest_grpo.packaged import is_package_argument
from pytest_grpo.remote.local_loop import LocalLoop
from pytest_grpo.remote.request_builder import OtherTree, forwarded_arguments
from pytest_grpo.session.findings import FINDINGS, Findings
from pytest_grpo.settings.config import PLUGIN_CONFIG, PluginConfig
from pytest_grpo.settings.phases import phases_of
from pytest_grpo.settings.run import RunSettings
from pytest_grpo.sides.differing import differing_files
from pytest_grpo.sides.trees import SideTree, on_stderr, open_side, this_side
from pytest_grpo.types import CHILD_PLUGIN, SIDE_FOLDER

_ONE_ENVIRONMENT = "the container's image has one environment; compare on this machine, without --modal"
ANSWER_BUDGETS, MIN_ANSWER_S = 10, 120.0
"""A worker that says nothing for ten times the time limit of a gate, and at least that long, hangs."""
_CONFIG_FILES = ("pytest.toml", ".pytest.toml", "pytest.ini", ".pytest.ini", "pyproject.toml", "tox.ini", "setup.cfg")
"""In pytest's order."""
_SECTION = re.compile(r"^\[(tool[.:])?pytest\b", re.MULTILINE)
_REFUSED = {
    "usepdb": "--pdb: no terminal reaches a worker",
    "trace": "--trace: no terminal reaches a worker",
    "grpo_save": "--grpo-save: rows of two versions are no baseline; store a run without --grpo-against",
    "grpo_compare": "--grpo-compare: one comparison at a time",
}


def register(config: pytest.Config) -> None:
    """Open the other side, and register the plugin that runs the tests on both.

    Raises:
        pytest.UsageError: the other side cannot be had, or an option does not go with this one.
    """
    settings = config.stash[PLUGIN_CONFIG]
    assert settings.against is not None
    _check_options(config, settings)
    ablated = settings.run.ablated(settings.ablated) if settings.ablated else None
    is_on_modal = settings.remote == "modal"
    is_worker = config.pluginmanager.has_plugin(CHILD_PLUGIN)
    expected = parse_expected(settings.expected)
    stack = ExitStack()
    config.add_cleanup(stack.close)
    root = config.rootpath
    here = this_side(root)
    why_same = _ONE_ENVIRONMENT if is_on_modal else ""
    show = on_stderr if ablated is None else _say_nothing
    other = stack.enter_context(open_side(root, settings.against, settings.with_packages, show, why_same))
    if ablated is not None and not is_worker:
        other = replace(other, name="+".join(settings.ablated))
    if settings.side_names:
        here, other = (replace(side, name=name) for side, name in zip((here, other), settings.side_names, strict=True))
    if other.name == here.name:  # a folder called "here", or one version twice
        other = replace(other, name=f"{other.name} (other side)")
    is_same_program = other.python == here.python and ablated is None
    differing = frozenset(differing_files(root, other.root)) if is_same_program else None
    findings = config.stash[FINDINGS] = Findings()
    runs = _is_compared_here if is_on_modal else is_compared
    against = AgainstSession(config, lambda: _sides(config, here, other, ablated), expected, differing, runs)
    config.pluginmanager.register(against, "grpo-against")
    if not is_worker:  # whose session tells them
        config.pluginmanager.register(FindingsReport(findings, expected, other.name), "grpo-findings")
    if is_on_modal:
        from pytest_grpo.remote.register import register as run_phases_elsewhere

        run_phases_elsewhere(
            config, OtherTree(other.root, _worker_arguments(config, settings, (here.name, other.name)))
        )
    else:
        config.pluginmanager.register(LocalLoop(is_compared), "grpo-local-loop")


def _check_options(config: pytest.Config, settings: PluginConfig) -> None:
    for name, why in _REFUSED.items():
        if config.getoption(name, None) or (name.startswith("grpo_") and config.getini(name)):
            raise pytest.UsageError(f"--grpo-against with {why}")
    if config.getoption("numprocesses", None) or config.getoption("tx", None):
        raise pytest.UsageError("--grpo-against with -n: workers would measure each other; drop -n, or give -n 0")
    given = config.invocation_params.args
    for option, value in itertools.pairwise(map(str, given)):
        if option == "--grpo-against" and value not in ("", ".") and (config.invocation_params.dir / value).is_dir():
            raise pytest.UsageError(
                f"--grpo-against {value}: pytest takes a folder after a space for tests; write --grpo-against={value}"
            )
    if settings.remote == "subprocess":
        raise pytest.UsageError(
            "--grpo-against with --grpo-remote subprocess: each version has its own process already; drop --grpo-remote"
        )
    if settings.remote == "modal" and settings.with_packages:
        raise pytest.UsageError(f"--grpo-with {settings.with_packages[0]} with --modal: {_ONE_ENVIRONMENT}")
    if settings.modal.is_detached or settings.modal.attached_run is not None:
        raise pytest.UsageError(
            "--grpo-against with a detached run: no session would compare the versions; give --modal"
        )


def _is_compared_here(item: pytest.Item) -> bool:
    """Whether ``item`` is compared here: where phases run elsewhere, tests without a phase stay."""
    return is_compared(item) and not phases_of(item)


def _worker_arguments(config: pytest.Config, settings: PluginConfig, names: tuple[str, str]) -> tuple[str, ...]:
    """With which the worker compares this tree with the one that is sent beside it."""
    return (
        *_chosen(config),
        f"--grpo-against=./{SIDE_FOLDER}",
        *(f"--grpo-side-name={name}" for name in names),
        f"--grpo-tolerance={settings.tolerance:g}",
        *(f"--grpo-expect={text}" for text in settings.expected),
        *(["--grpo-same-answers"] if settings.same_answers else []),
        *(f"--grpo-ablate={change}" for change in settings.ablated),
    )


def _say_nothing(line: str) -> None:
    """That both sides have the same code is known where only a setting differs."""


def _sides(config: pytest.Config, here: SideTree, other: SideTree, ablated: RunSettings | None) -> tuple[Side, Side]:
    settings = config.stash[PLUGIN_CONFIG]
    timeout_s = max(MIN_ANSWER_S, ANSWER_BUDGETS * settings.budget_s)
    runs = (settings.run, settings.run if ablated is None else ablated)
    first, second = (
        Side(tree, _arguments(config, tree.root, run), timeout_s) for tree, run in zip((here, other), runs, strict=True)
    )
    return first, second


def _arguments(config: pytest.Config, root: Path, run: RunSettings) -> list[str]:
    """pytest's arguments for the worker of ``root``: its options, and the files of the session that are there, too."""
    options = forwarded_arguments(config, config_file(config, root), run)
    return [*options, *_chosen(config), *_packaged(config), *dict.fromkeys(_files(config, root))]


def _chosen(config: pytest.Config) -> Iterator[str]:
    """The options that choose tests, so that it is known which tests only the other side has."""
    for option, name in (("-m", "markexpr"), ("-k", "keyword"), ("--phase", "grpo_phase")):
        if value := config.getoption(name, None):
            yield from (option, value)


def config_file(config: pytest.Config, root: Path) -> str | None:
    """The file with pytest's settings in ``root``: as in this session, or another one where the tree has none there."""
    here = config.inipath
    if here is None or not here.is_relative_to(config.rootpath):
        return None
    own = here.relative_to(config.rootpath).as_posix()
    if config.getoption("inifilename") and (root / own).is_file():
        return own
    return next((name for name in (own, *_CONFIG_FILES) if _has_settings(root / name)), None)


def _has_settings(file: Path) -> bool:
    if file.name in ("pytest.ini", ".pytest.ini", "pytest.toml", ".pytest.toml"):
        return file.is_file()
    return file.is_file() and _SECTION.search(file.read_text(encoding="utf-8")) is not None


def _packaged(config: pytest.Config) -> list[str]:
    """The session's phases of this package, which both sides run."""
    named = [name for name in config.args if is_package_argument(name)] if config.getoption("pyargs") else []
    return ["--pyargs", *dict.fromkeys(name.partition("::")[0] for name in named)] if named else []


def _files(config: pytest.Config, root: Path) -> Iterator[str]:
    for argument in config.args:
        file = (config.invocation_params.dir / argument.partition("::")[0]).resolve()
        if file.is_relative_to(config.rootpath):
            own = file.relative_to(config.rootpath)
            if (root / own).exists():
                yield own.as_posix()
