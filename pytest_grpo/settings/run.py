"""Which run the phases judge: the embedded default, or one of the user's own."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_grpo.settings.option_values import given

if TYPE_CHECKING:
    from grpo_core.config import GrpoConfig

EMBEDDED = "the embedded default"
SINGLE_KEYS = {"model": "model.name", "environment": "environment.name", "engine": "rollout.engine"}
"""``--grpo-model`` and the like, and the setting that each one gives."""


@dataclass(frozen=True, slots=True)
class RunSettings:
    """``--grpo-config``, then ``--grpo-set``, then ``--grpo-model``, ``--grpo-environment`` and ``--grpo-engine``.

    Of each, the ini value comes first. Without any, the phases judge the embedded default.
    """

    path: Path | None = None
    """A TOML file, as ``grpo train --config`` reads it."""
    changes: tuple[str, ...] = ()
    """Single settings, ``section.key=value``, the strongest last."""
    single: tuple[tuple[str, str], ...] = ()
    """Names of ``SINGLE_KEYS`` with their values."""

    @classmethod
    def from_pytest_config(cls, config: pytest.Config) -> RunSettings:
        """Raises pytest.UsageError when the file, or what reads it, is not there."""
        text = given(config, "grpo_config")
        path = _file(config, text) if text is not None else None
        changes = (*config.getini("grpo_set"), *(config.getoption("grpo_set") or ()))
        single = ((name, given(config, f"grpo_{name}")) for name in SINGLE_KEYS)
        run = cls(path, changes, tuple((name, value) for name, value in single if value is not None))
        if not run.is_embedded:
            _check_packages(run)
        return run

    @property
    def is_embedded(self) -> bool:
        """Whether nothing names a run."""
        return self == RunSettings()

    def values(self) -> dict[str, Any]:
        """The nested settings, unchecked.

        Raises:
            pytest.UsageError: the file cannot be read, or a setting is none.
        """
        from grpo_core.config import read_config
        from grpo_core.config.flags import put
        from grpo_core.config.values import parse_setting
        from grpo_core.errors import ConfigError

        try:
            values = {} if self.path is None else read_config(self.path)
            for change in self.changes:
                put(values, *parse_setting("--grpo-set", change))
            for name, value in self.single:
                put(values, SINGLE_KEYS[name], value)
        except ConfigError as error:
            raise pytest.UsageError(f"grpo: {error}") from None
        return values

    def config(self) -> GrpoConfig:
        """The checked configuration.

        Raises:
            pytest.UsageError: as ``values``, or a setting is not allowed.
        """
        from grpo_core.config import build_config
        from grpo_core.errors import GrpoError

        typed = {SINGLE_KEYS[name]: f"--grpo-{name}" for name, _ in self.single}
        try:
            return build_config(self.values(), typed)
        except GrpoError as error:
            raise pytest.UsageError(f"grpo: {error}") from None

    def options(self, root: Path | None = None) -> Iterator[str]:
        """The options that give another session of pytest the same run.

        With ``root``, that session has the files below it, and no others.
        """
        if self.path is not None:
            yield f"--grpo-config={self.path if root is None else self.path.relative_to(root.resolve()).as_posix()}"
        for change in self.changes:
            yield f"--grpo-set={change}"
        for name, value in self.single:
            yield f"--grpo-{name}={value}"

    def ablated(self, changes: Sequence[str]) -> RunSettings:
        """The run under other settings, each ``section.key=value``.

        Raises:
            pytest.UsageError: there is no run to change, or a setting is not allowed.
        """
        from grpo_core.config.values import parse_setting
        from grpo_core.errors import ConfigError

        if self.is_embedded:
            raise pytest.UsageError(
                f"--grpo-ablate {changes[0]}: it changes a setting of a run, and none is named; add --grpo-config "
                "run.toml, --grpo-model or --grpo-environment"
            )
        try:
            for change in changes:
                parse_setting("--grpo-ablate", change)
        except ConfigError as error:
            raise pytest.UsageError(str(error)) from None
        single = (f"{SINGLE_KEYS[name]}={json.dumps(value)}" for name, value in self.single)
        other = RunSettings(self.path, (*self.changes, *single, *changes))  # what is ablated wins
        if other.config() == self.config():
            raise pytest.UsageError(f"--grpo-ablate {', '.join(changes)}: the run has that already; give another value")
        return other

    def content(self) -> str:
        """What sets this run apart from the embedded default, wherever it stands: two equal runs have equal texts.

        Raises:
            pytest.UsageError: as ``config``.
        """
        if self.is_embedded:
            return EMBEDDED
        from grpo_core.config import GrpoConfig
        from grpo_core.config.values import flattened

        given, default = (flattened(run.model_dump(exclude={"run"})) for run in (self.config(), GrpoConfig()))
        changed = sorted(f"{key}={value}" for key, value in given.items() if default.get(key) != value)
        return ", ".join(changed) or "the defaults of grpo train"

    def __str__(self) -> str:
        """As it was given: ``run.toml, model.name=small``."""
        if self.is_embedded:
            return EMBEDDED
        parts = [] if self.path is None else [self.path.name]
        return ", ".join([*parts, *self.changes, *(f"{SINGLE_KEYS[name]}={value}" for name, value in self.single)])


def _check_packages(run: RunSettings) -> None:
    from grpo_core.extras import install_command, missing_modules

    if "pydantic" in missing_modules("train"):
        raise pytest.UsageError(f"{run}: the package pydantic is not installed; run: {install_command('train')}")


def _file(config: pytest.Config, text: str) -> Path:
    from_option = config.getoption("grpo_config") is not None
    path = ((config.invocation_params.dir if from_option else config.rootpath) / text).resolve()
    if not text or not path.is_file():
        given = "--grpo-config" if from_option else "ini grpo_config"
        raise pytest.UsageError(f"{given} {text!r}: no such file; give the TOML file that `grpo train --config` reads")
    return path
