"""The plugin's settings, read from options and ini values and checked."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import pytest

from pytest_grpo.settings.device import DeviceProfile, detect_device_profile
from pytest_grpo.settings.modal import ModalSettings
from pytest_grpo.settings.option_values import (
    choice,
    given,
    given_new_file,
    given_num_gates,
    option_or_ini,
    parse_budget_s,
    parse_looks,
    parse_max_cores_of_others,
    parse_tolerance,
)
from pytest_grpo.settings.phases import parse_phases, phases_in_expression
from pytest_grpo.settings.run import RunSettings
from pytest_grpo.types import CHILD_PLUGINS, SIDE_PLUGIN

RemoteKind = Literal["modal", "subprocess"]
Inconclusive = Literal["majority", "xfail", "fail"]
"""``majority``: each is an xfail, and the session fails when more than half of its timing gates are inconclusive."""

Override = tuple[str, str]
"""Its source, and ``name=value``."""

ENVIRONMENT = "environment GRPO_THRESHOLD"
"""The source of an override that the environment sets."""


@dataclass(frozen=True, slots=True)
class PluginConfig:
    """The plugin's settings. A command-line option wins over the ini value of the same name."""

    only_phases: frozenset[int] | None
    """``--phase``: only these phases run. None without the option."""
    asked_phases: frozenset[int]
    """The phases that ``--phase`` or ``-m`` select."""
    claims_markers: bool
    """Whether the project opts in to the phase markers: by a thresholds file, or by an option or ini value that selects
    phases or says where they run. Elsewhere a marker such as ``phase1`` is the project's own."""
    remote: RemoteKind | None
    """Where phase tests run; None means in this process."""
    modal: ModalSettings
    thresholds_path: Path
    thresholds_required: bool
    """The ini names the file, so it must be readable even if no phase runs."""
    threshold_overrides: tuple[Override, ...]
    """In order of precedence, strongest last."""
    looks: tuple[int, ...]
    """The numbers of pairs at which a gate tries to decide (interim looks of a group-sequential test)."""
    budget_s: float
    """Time limit for the samples of one gate."""
    num_gates: int | None
    """The number of gates that share the false-failure budget; None means the collected tests that measure arms."""
    device_profile: DeviceProfile | None
    """None means: detect it when needed."""
    inconclusive: Inconclusive
    max_cores_of_others: float
    """A round during which other processes used more cores is measured again."""
    has_control: bool
    """Whether the A/A control runs first: the same work measured against itself."""
    system: str
    versus: str | None
    run: RunSettings
    """The run that the phases judge."""
    against: str | None
    """The other version to compare with: a revision, a folder, or ``.``."""
    with_packages: tuple[str, ...]
    """What the other side has instead of this process's packages, as ``name==version``."""
    ablated: tuple[str, ...]
    """Settings of the run that only the other side has, as text."""
    expected: tuple[str, ...]
    """Changes that must be proven, as text."""
    side_names: tuple[str, ...]
    """How tables call the two sides, where another process has named them."""
    same_answers: bool
    save: str | None
    compare: str | None
    tolerance: float
    """How much worse than the baseline is tolerated, as a fraction."""
    any_machine: bool
    html_path: Path | None
    json_path: Path | None

    @classmethod
    def from_pytest_config(cls, config: pytest.Config) -> PluginConfig:
        """Raises pytest.UsageError, one line, for each value that is not allowed."""
        remote = _remote(config)
        only, asked = _phases(config)
        path = config.rootpath / (config.getini("grpo_thresholds") or "bench/thresholds.toml")
        is_child = _is_child(config)  # the session that started it stores the results
        return cls(
            only_phases=only,
            asked_phases=asked,
            claims_markers=is_child or remote is not None or path.is_file() or _selects_phases(config),
            remote=remote,
            modal=ModalSettings.from_pytest_config(config, path),
            thresholds_path=path,
            thresholds_required=bool(config.getini("grpo_thresholds")),
            threshold_overrides=_overrides(config),
            looks=parse_looks(option_or_ini(config, "grpo_pairs")),
            budget_s=parse_budget_s(option_or_ini(config, "grpo_budget")),
            num_gates=given_num_gates(config),
            device_profile=cast(
                "DeviceProfile | None", choice(config, "grpo_device_profile", ("cpu", "gpu"), default="auto")
            ),
            inconclusive=cast(
                "Inconclusive", choice(config, "grpo_inconclusive", ("fail", "xfail"), "majority") or "majority"
            ),
            max_cores_of_others=parse_max_cores_of_others(config.getini("grpo_max_cores_of_others")),
            has_control=config.getini("grpo_control"),
            system=option_or_ini(config, "grpo_system") or "grpo_core",
            versus=_versus(config),
            run=_run(config, remote),
            against=_against(config),
            with_packages=tuple(config.getoption("grpo_with") or config.getini("grpo_with")),
            ablated=tuple(config.getoption("grpo_ablate") or ()),
            expected=tuple(config.getoption("grpo_expect") or config.getini("grpo_expect")),
            side_names=tuple(config.getoption("grpo_side_name") or ()),
            same_answers=config.getoption("grpo_same_answers") or config.getini("grpo_same_answers"),
            save=None if is_child else given(config, "grpo_save"),
            compare=given(config, "grpo_compare"),
            tolerance=parse_tolerance(option_or_ini(config, "grpo_tolerance")),
            any_machine=config.getoption("grpo_any_machine") or config.getini("grpo_any_machine"),
            html_path=None if is_child else given_new_file(config, "grpo_html", "report.html"),
            json_path=None if is_child else given_new_file(config, "grpo_json", "verdicts.json"),
        )

    @property
    def profile(self) -> DeviceProfile:
        """The device profile, detected if it was not set."""
        return self.device_profile or detect_device_profile()


PLUGIN_CONFIG = pytest.StashKey[PluginConfig]()


def is_xdist_worker(config: pytest.Config) -> bool:
    """Whether this process is an xdist worker; only the controller reports."""
    return hasattr(config, "workerinput")


def _phases(config: pytest.Config) -> tuple[frozenset[int] | None, frozenset[int]]:
    option = config.getoption("grpo_phase")
    expression: str = config.getoption("markexpr") or ""
    asked = phases_in_expression(expression)
    if option is not None:
        only = parse_phases(option)
        if not asked <= only:
            extra = ", ".join(f"phase{number}" for number in sorted(asked - only))
            raise pytest.UsageError(
                f"--phase {option!r} and -m {expression!r}: only -m selects {extra}; drop one of the two"
            )
        return only, asked or only
    attached = config.getoption("grpo_modal_attach")
    if attached is not None and not asked:
        from pytest_grpo.settings.detached_run import phases_of_run

        return None, phases_of_run(attached)
    ini = config.getini("grpo_phase")
    if ini and not asked:
        return parse_phases(ini), parse_phases(ini)
    compares = option_or_ini(config, "grpo_against") or config.pluginmanager.has_plugin(SIDE_PLUGIN)
    if compares and not asked:  # every gate there is
        return None, parse_phases("all")
    return None, asked


def _selects_phases(config: pytest.Config) -> bool:
    names = ("grpo_phase", "grpo_thresholds")
    return config.getoption("grpo_phase") is not None or any(config.getini(name) for name in names)


def _is_child(config: pytest.Config) -> bool:
    """Whether this process runs tests for another session."""
    return any(map(config.pluginmanager.has_plugin, CHILD_PLUGINS))


def _remote(config: pytest.Config) -> RemoteKind | None:
    if _is_child(config):
        return None
    kind = choice(config, "grpo_remote", ("modal", "subprocess"), default="local")
    modal = _asks_for_modal(config)
    if modal and config.getoption("grpo_remote") not in (None, "modal"):
        raise pytest.UsageError(
            f"--modal and --grpo-remote {kind or 'local'}: both say where phases run; drop one of the two"
        )
    if modal or (config.getini("grpo_modal") and config.getoption("grpo_remote") is None):
        kind = "modal"
    if kind is not None and config.getoption("dist", "no") != "no":
        raise pytest.UsageError(f"--grpo-remote {kind}: xdist cannot distribute phase tests that run there; drop -n")
    return cast("RemoteKind | None", kind)


def _asks_for_modal(config: pytest.Config) -> bool:
    detach, attach = config.getoption("grpo_modal_detach"), config.getoption("grpo_modal_attach")
    if detach and attach is not None:
        raise pytest.UsageError(
            f"--modal-detach and --modal-attach {attach}: one starts a run, the other reports one; drop one of the two"
        )
    return config.getoption("grpo_modal") or detach or attach is not None


def _overrides(config: pytest.Config) -> tuple[Override, ...]:
    environment = os.environ.get("GRPO_THRESHOLD", "")
    return (
        *(("ini grpo_threshold", text) for text in config.getini("grpo_threshold")),
        *((ENVIRONMENT, text) for text in environment.replace(",", " ").split()),
        *(("--grpo-threshold", text) for text in config.getoption("grpo_threshold") or ()),
    )


def _run(config: pytest.Config, remote: RemoteKind | None) -> RunSettings:
    run = RunSettings.from_pytest_config(config)
    if remote is not None and run.path is not None and not run.path.is_relative_to(config.rootpath.resolve()):
        raise pytest.UsageError(
            f"--grpo-config {str(run.path)!r}: phases that run elsewhere get the files of {config.rootpath} only; put "
            "it there"
        )
    return run


def _versus(config: pytest.Config) -> str | None:
    versus = option_or_ini(config, "grpo_versus") or None
    system = option_or_ini(config, "grpo_system") or "grpo_core"
    if versus == system:
        raise pytest.UsageError(f"--grpo-versus {versus!r}: that is the system under test itself; name another one")
    return versus


def _against(config: pytest.Config) -> str | None:
    """A worker of a phase compares when its session says so, whatever the ini file says; one of a side never does."""
    if config.pluginmanager.has_plugin(SIDE_PLUGIN):
        return None
    if _is_child(config):
        return config.getoption("grpo_against") or None
    against = given(config, "grpo_against")
    if against is None and config.getoption("grpo_ablate"):
        against = "."  # the same code under another setting
    for name in ("grpo_with", "grpo_expect"):
        texts = config.getoption(name) or []
        if against is None and texts:
            option = f"--{name.replace('_', '-')} {texts[0]}"
            raise pytest.UsageError(f"{option}: is about another version, and none is given; add --grpo-against")
    return against
