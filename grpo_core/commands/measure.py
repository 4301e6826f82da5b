"""``grpo profile`` and ``grpo benchmark``: run a part of the stack, time it, keep what was measured."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from rich.console import Console

from grpo_core.commands.command_line.on_modal import add_modal_flag, check_for_modal, running_app, sources_for
from grpo_core.commands.command_line.options import add_config_flags, config_from_flags
from grpo_core.commands.command_line.parser import TIMES_OR_TRACE, Misplaced
from grpo_core.config import GrpoConfig
from grpo_core.home import Home, check_name, check_writable

_ENVIRONMENT = {"environment.name": "diplomacy"}
_SMOKE = {"schedule.num_steps": 1, "rollout.num_groups": 1, "rollout.group_size": 2}
_FULL = {"schedule.num_steps": 2, "rollout.num_groups": 2, "rollout.group_size": 2}


def add_profile_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_flags(parser, _ENVIRONMENT | _FULL)
    parser.add_argument("--target", choices=("rollout", "trainer"), default="trainer", help="what the trace covers")
    parser.add_argument("--profile", action=Misplaced, instead=TIMES_OR_TRACE)
    _add_common(parser)


def add_benchmark_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_flags(parser, _ENVIRONMENT | _FULL)
    parser.add_argument("--profile", choices=("rollout", "trainer", "e2e"), default="e2e", help="what is timed")
    parser.add_argument("--target", action=Misplaced, instead=TIMES_OR_TRACE)
    parser.add_argument("--smoke", action="store_true", help="smallest sizes, to see that it works: 1 step, 1 group")
    _add_common(parser)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--profile-name",
        metavar="NAME",
        help="names the trace folder and the snapshot (default: what is measured, and -profile or -benchmark)",
    )
    parser.add_argument("--no-warmup", action="store_true", help="measure the first run too")
    parser.add_argument("--phase", action=Misplaced, instead="to judge a phase: grpo bench --phase {}")
    add_modal_flag(parser)


def run_profile(flags: argparse.Namespace, console: Console) -> int:
    """Trace ``--target`` with the torch profiler; the folder and the snapshot are printed."""
    name = check_name(flags.profile_name or f"{flags.target}-profile", "--profile-name")
    config = _config(flags, name, _FULL, console)
    _keep(flags, config, console, name, flags.target, traced=True)
    return 0


def run_benchmark(flags: argparse.Namespace, console: Console) -> int:
    """Time ``--profile``; the snapshot is printed."""
    name = check_name(flags.profile_name or f"{flags.profile}-benchmark", "--profile-name")
    config = _config(flags, name, _SMOKE if flags.smoke else _FULL, console)
    _keep(flags, config, console, name, flags.profile, traced=False)
    return 0


def _keep(
    flags: argparse.Namespace, config: GrpoConfig, console: Console, name: str, what: str, *, traced: bool
) -> None:
    """Here, or with ``--modal`` in a container of the app, which prints the same."""
    warmup = not flags.no_warmup
    if flags.modal:
        from grpo_core.cloud.volumes import DATA, TRACES

        check_for_modal(config)
        with running_app() as app:
            sources = sources_for(app, config.environment.name)
            app.measure.remote(config.model_dump_json(), name, what, warmup, traced, sources)
        console.print(f"fetch it: modal volume get {DATA.name} benchmarks/{name}.json", soft_wrap=True)
        if traced:
            console.print(f"fetch it: modal volume get {TRACES.name} {name}", soft_wrap=True)
    else:
        home = Home.from_environment()
        check_writable(home.data)  # one that cannot be written is said before torch is imported

        from grpo_core.profiling import keep_measurement

        keep_measurement(config, home, console, name, what, warmup=warmup, traced=traced)


def _config(flags: argparse.Namespace, name: str, sizes: Mapping[str, Any], console: Console) -> GrpoConfig:
    defaults = {**_ENVIRONMENT, **sizes}
    if flags.samples == 1:
        defaults["training.advantages"] = "mean_only"
        console.print("--samples 1: a group of one has no siblings, so all advantages are 0; timings only")
    return config_from_flags(flags, defaults, name)
