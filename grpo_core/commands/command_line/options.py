"""Command-line flags and the configuration that they make."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpo_core.config import GrpoConfig, build_config, read_config
from grpo_core.config.flags import FLAG_KEYS, put, put_flags
from grpo_core.config.values import flattened, merged, parse_setting


def add_config_flags(parser: argparse.ArgumentParser, defaults: Mapping[str, Any]) -> None:
    """The flags that every command shares. What is not given keeps the configuration's own default.

    ``defaults`` (dotted keys) are the command's own, as for ``config_from_flags``; the help shows them.
    """
    group = parser.add_argument_group("configuration")

    def add(text: str, *flags: str, metavar: str = "NAME", kind: type = str) -> None:
        name = flags[-1].removeprefix("--").replace("-", "_")
        help_text = text if "(default" in text else f"{text} (default: {_default(FLAG_KEYS[name], defaults)})"
        group.add_argument(*flags, dest=name, type=kind, metavar=metavar, help=help_text)

    def add_number(flag: str, text: str) -> None:
        add(text, flag, metavar="N", kind=int)

    def add_switch(flag: str, text: str) -> None:
        group.add_argument(flag, action="store_true", default=None, help=text)

    group.add_argument("--config", type=_file, action=_Once, metavar="FILE", help="TOML file with any of the settings")
    group.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="any setting, e.g. training.kl_coefficient=0"
    )
    add("tiny, small, adder, a model folder or hub id; --preset and --model are the same", "--preset", "--model")
    add("auto, cpu or cuda", "--device")
    add("arithmetic, diplomacy, reasoning_gym:TASK, verifiers:NAME or package.module:factory", "--environment")
    add(
        "questions: a .jsonl or .parquet file, a folder or hub id of datasets (default: none)",
        "--dataset",
        metavar="PATH",
    )
    group.add_argument(
        "--reward",
        action="append",
        metavar="MODULE:FUNCTION",
        help="rewards the answers to --dataset, in TRL's signature; again for several, with =WEIGHT behind it",
    )
    add("what samples: torch, vllm or plain", "--engine")
    add_number("--steps", "training steps, or batches to collect")
    add_number("--groups", "starting states per batch")
    add_number("--samples", "episodes per starting state (the group size)")
    add_number("--horizon", "length of an episode: years in Diplomacy")
    add_number("--seed", "seed of all random draws: the same seed trains on the same tokens")
    add_switch("--compact-prompts", "abbreviated prompts: the same facts in fewer tokens")
    add_switch("--use-state-cache", "start from cached mid-game positions; the opening is not played again")
    add_number("--buffer-depth", "finished batches that wait for the trainer")
    add_number("--policy-lag", "max_policy_lag_steps: how old a batch may be")
    rates = "of the optimizer (default: 2e-3 for an adapter, 3e-4 for all weights; less for larger models)"
    add(rates, "--learning-rate", metavar="X", kind=float)


class _Once(argparse.Action):
    """The second one would take the place of the first."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        if vars(namespace)[self.dest] is not None:
            parser.error(f"{option} {values}: {option} is given already; put all settings into one file")
        setattr(namespace, self.dest, values)


def _file(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("give the path of a TOML file")
    return Path(text)


def _default(key: str, defaults: Mapping[str, Any]) -> Any:
    if key in defaults:
        return defaults[key]
    section, _, name = key.partition(".")
    return GrpoConfig().model_dump()[section][name]


@dataclass(frozen=True, slots=True)
class Given:
    """What a command line says of the configuration, ``--config`` included."""

    values: dict[str, Any]  # nested
    typed: dict[str, str]  # dotted key -> the flag of its own that gave the value, for messages


def given_settings(flags: argparse.Namespace) -> Given:
    """The config file, then ``--set``, then the flags of their own.

    Raises:
        ConfigError: the file cannot be read, or a key has no section.
    """
    values = {} if flags.config is None else read_config(flags.config)
    for setting in flags.set:
        put(values, *parse_setting("--set", setting))
    put_flags(values, vars(flags))
    given = vars(flags)
    typed = {key: f"--{name.replace('_', '-')}" for name, key in FLAG_KEYS.items() if given.get(name) is not None}
    return Given(values, typed)


def config_from_flags(flags: argparse.Namespace, defaults: Mapping[str, Any], run: str) -> GrpoConfig:
    """``defaults`` (dotted keys), then what ``flags`` say; ``run`` names it.

    Raises:
        ConfigError: a bad key or value, or two that contradict each other.
    """
    return full_config(given_settings(flags), defaults, run)


def full_config(given: Given, defaults: Mapping[str, Any], run: str) -> GrpoConfig:
    """``defaults`` (dotted keys), then what was ``given``; ``run`` names it.

    Raises:
        ConfigError: a bad value, or two that contradict each other.
    """
    values: dict[str, Any] = {}
    for key, value in defaults.items():
        put(values, key, value)
    if flattened(given.values).get("environment.data.path") is not None:  # it names its environment itself
        values.get("environment", {}).pop("name", None)
    return build_config({**merged(values, given.values), "run": run}, given.typed)
