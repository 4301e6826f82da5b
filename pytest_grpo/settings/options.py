"""The command-line options and the ini values of the same names."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import pytest

from pytest_grpo.settings.option_values import DEFAULT_MAX_CORES_OF_OTHERS, DEFAULT_TOLERANCE


def add_options(parser: pytest.Parser) -> None:
    group = parser.getgroup("grpo", "performance phases of a GRPO training stack")
    add = group.addoption
    add("--phase", "--grpo-phase", dest="grpo_phase", metavar="PHASES", help="run only these phases: 2,5 or all")
    add("--modal", "--grpo-modal", dest="grpo_modal", action="store_true", help="run the phase tests on Modal")
    add("--grpo-remote", metavar="WHERE", help="where phase tests run: local, subprocess (a clean process) or modal")
    _add_modal(group)
    add(
        "--grpo-threshold",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="replace the bound of a threshold, e.g. batched_speedup=1.5 or forward_over_backward=0.5..2 (repeatable)",
    )
    add(
        "--grpo-pairs",
        metavar="N,N,...",
        help="pair counts at which a gate tries to decide (default: 8,12,18,27,40)",
    )
    add(
        "--grpo-budget",
        metavar="SECONDS",
        help="time limit for one gate (default: 45; three times that to prove a failure, five for slow arms, set-up)",
    )
    add(
        "--grpo-num-gates",
        metavar="N",
        help="number of timing gates that share the 1 %% chance of a false failure (default: those collected)",
    )
    add("--grpo-device-profile", metavar="PROFILE", help="which thresholds apply: cpu, gpu or auto (default)")
    add(
        "--grpo-inconclusive",
        metavar="HOW",
        help="what inconclusive timing gates do: majority (default: the session fails if more than half of them are), "
        "xfail (nothing) or fail (each fails its test)",
    )
    add("--grpo-system", metavar="NAME", help="the stack under test: grpo_core (default), trl, or your own")
    add("--grpo-versus", metavar="NAME", help="a second stack to compare with in the same run")
    _add_run(add)
    _add_against(add)
    add("--grpo-save", metavar="NAME", help="save the verdicts as a baseline of this name")
    add("--grpo-compare", metavar="NAME", help="fail a gate that regressed from this baseline")
    add("--grpo-tolerance", metavar="FRACTION", help="how much worse than the baseline is tolerated (default: 0.05)")
    add("--grpo-any-machine", action="store_true", help="accept a baseline of another machine or other software")
    add("--grpo-html", metavar="FILE", help="write the verdicts as one self-contained HTML page")
    add("--grpo-json", metavar="FILE", help="write the verdicts and all samples as JSON")
    add("--grpo-show-thresholds", action="store_true", help="list the thresholds and their sources, and exit")


def _add_run(add: Callable[..., None]) -> None:
    add("--grpo-config", metavar="FILE", help="the run that the phases judge, as `grpo train --config` reads it")
    add("--grpo-model", metavar="NAME", help="its model: tiny, small, a model folder or hub id")
    add(
        "--grpo-environment",
        metavar="NAME",
        help="its environment: arithmetic, diplomacy, reasoning_gym:TASK, verifiers:NAME or package.module:factory",
    )
    add("--grpo-engine", metavar="NAME", help="its rollout engine: torch, vllm or plain")
    add(
        "--grpo-set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any of its settings, e.g. rollout.group_size=4 (repeatable)",
    )


def _add_against(add: Callable[..., None]) -> None:
    add(
        "--grpo-against",
        metavar="VERSION",
        help="compare this code with another version in pairs: a revision, a folder, or . with --grpo-with",
    )
    add(
        "--grpo-with",
        action="append",
        default=[],
        metavar="PACKAGE==VERSION",
        help="the other side of --grpo-against gets this package (repeatable)",
    )
    add(
        "--grpo-expect",
        action="append",
        default=[],
        metavar="ARM.QUANTITY>=RATIO",
        help="fail unless this change is proven, e.g. step.tokens_per_second>=1.10 (repeatable)",
    )
    add(
        "--grpo-ablate",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="compare the run of --grpo-config with itself under another setting, e.g. training.packing=padded "
        "(repeatable: they change together)",
    )
    add("--grpo-side-name", action="append", default=[], metavar="NAME", help=argparse.SUPPRESS)
    add("--grpo-same-answers", action="store_true", help="fail when the answers of the two versions differ")


def _add_modal(group: pytest.OptionGroup) -> None:
    add = group.addoption

    def add_value(name: str, metavar: str, text: str) -> None:
        dest = f"grpo_modal_{name.replace('-', '_')}"
        add(f"--modal-{name}", f"--grpo-modal-{name}", dest=dest, metavar=metavar, help=text)

    add_value("gpu", "TYPE", "GPU of all phases on Modal, e.g. L4, H100:2 or none; wins over the thresholds file")
    add_value("app", "APP", "the name of a deployed app, or a Python file with an app (default: app.py)")
    add_value("timeout", "SECONDS", "time limit of a phase on Modal (default: the app's own)")
    add_value("region", "REGIONS", "Modal regions, e.g. us-east,eu")
    add_value("env", "NAME", "the Modal environment (default: that of your Modal profile)")
    add_value("max-containers", "N", "how many phases may run at once on Modal (default: 8)")
    add_value("retries", "N", "how often a phase restarts after its container was lost (default: 2)")
    add_value("attach", "RUN", "report a run that --modal-detach started")
    add(
        "--modal-detach",
        "--grpo-modal-detach",
        dest="grpo_modal_detach",
        action="store_true",
        help="start the phases on Modal and exit; --modal-attach reports them",
    )


def add_ini(parser: pytest.Parser) -> None:
    parser.addini("grpo_phase", "phases to run when the command line selects none, as --phase", default="")
    parser.addini("grpo_modal", "as --modal", type="bool", default=False)
    for name in ("gpu", "app", "timeout", "region", "env", "max-containers", "retries"):
        parser.addini(f"grpo_modal_{name.replace('-', '_')}", f"as --modal-{name}", default="")
    parser.addini("grpo_remote", "as --grpo-remote", default="")
    parser.addini("grpo_thresholds", "thresholds file (default: bench/thresholds.toml)", default="")
    parser.addini("grpo_threshold", "bounds to replace, as --grpo-threshold", type="linelist", default=[])
    parser.addini("grpo_pairs", "as --grpo-pairs", default="8,12,18,27,40")
    parser.addini("grpo_budget", "as --grpo-budget", default="45")
    parser.addini("grpo_device_profile", "as --grpo-device-profile", default="")
    parser.addini("grpo_system", "as --grpo-system", default="")
    parser.addini("grpo_versus", "as --grpo-versus", default="")
    parser.addini("grpo_config", "as --grpo-config, from the root folder", default="")
    for name in ("model", "environment", "engine"):
        parser.addini(f"grpo_{name}", f"as --grpo-{name}", default="")
    parser.addini("grpo_set", "as --grpo-set", type="linelist", default=[])
    parser.addini("grpo_against", "as --grpo-against", default="")
    parser.addini("grpo_with", "as --grpo-with", type="linelist", default=[])
    parser.addini("grpo_expect", "as --grpo-expect", type="linelist", default=[])
    parser.addini("grpo_same_answers", "as --grpo-same-answers", type="bool", default=False)
    parser.addini("grpo_save", "as --grpo-save", default="")
    parser.addini("grpo_compare", "as --grpo-compare", default="")
    parser.addini("grpo_tolerance", "as --grpo-tolerance", default=str(DEFAULT_TOLERANCE))
    parser.addini("grpo_any_machine", "as --grpo-any-machine", type="bool", default=False)
    parser.addini("grpo_html", "as --grpo-html", default="")
    parser.addini("grpo_json", "as --grpo-json", default="")
    parser.addini(
        "grpo_control",
        "first measure the same work against itself, to detect a noisy machine (default: true)",
        type="bool",
        default=True,
    )
    parser.addini("grpo_inconclusive", "as --grpo-inconclusive", default="")
    parser.addini(
        "grpo_max_cores_of_others",
        "measure pairs again during which other processes used more cores (default: 0.1; inf: never)",
        default=str(DEFAULT_MAX_CORES_OF_OTHERS),
    )
