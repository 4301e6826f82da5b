"""The factory of an environment of verifiers."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

from grpo_core.config import EnvironmentConfig
from grpo_core.environments.agents.environment import AgentEnvironment
from grpo_core.environments.user_code import with_working_folder
from grpo_core.environments.verifiers.session import Session
from grpo_core.errors import MissingPackageError
from grpo_core.extras import install_command


@dataclass(frozen=True, slots=True)
class VerifiersFactory:
    """Its environments share one session."""

    key: str
    session: Session

    @property
    def name(self) -> str:
        return self.key

    def __call__(self) -> AgentEnvironment:
        return AgentEnvironment(self.session)


def open_verifiers(config: EnvironmentConfig) -> VerifiersFactory:
    """The environment that ``config.name`` names, with ``config.settings``.

    Raises:
        MissingPackageError: verifiers is not installed.
        ConfigError: it has no such environment, or does not take these settings.
    """
    if find_spec("verifiers") is None:
        raise MissingPackageError(
            f"environment.name {config.name!r} needs the package verifiers; run: {install_command('verifiers')}"
        )
    with_working_folder()
    return VerifiersFactory(config.name, Session(config.name.partition(":")[2], config.settings))
