"""What an environment gives, checked where it is asked: a message says which of its methods gave what."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Mapping
from pathlib import Path

from grpo_core.environments.protocol import Environment
from grpo_core.environments.user_code import described, number_of
from grpo_core.errors import GrpoError, InvalidActionError, printable, shown
from grpo_core.types import Observation

_HERE = Path(__file__).parent


def observe(environment: Environment) -> tuple[Observation, ...]:
    """The observations of ``environment``, which is not done.

    Raises:
        InvalidActionError: it gives none, or something else.
    """
    found: object = environment.observe()
    if not isinstance(found, tuple | list) or not all(isinstance(each, Observation) for each in found):
        raise InvalidActionError(f"observe() gave {shown(found)}; give a tuple of grpo_core.types.Observation")
    if not found:
        raise InvalidActionError("observe() gave no observation, and done is false; make it done, or observe")
    for each in found:
        if each.choices is not None and not all(each.choices or [()]):
            raise InvalidActionError(
                f"observe() gave agent {each.agent!r} the choices {shown(each.choices)}; give at least one line for "
                "each segment, or None for a free answer"
            )
    return tuple(found)


def read_rewards(environment: Environment, agents: Iterable[str]) -> dict[str, float]:
    """The reward of each of ``agents``.

    Raises:
        InvalidActionError: one has none, or something that is no number.
    """
    found: object = environment.rewards()
    if not isinstance(found, Mapping):
        raise InvalidActionError(f"rewards() gave {shown(found)}; give a number for each agent, by its name")
    rewards = {}
    for agent in agents:
        if agent not in found:
            raise InvalidActionError(
                f"rewards() has none for agent {agent!r}, only for {sorted(map(str, found))}; give it a number"
            )
        try:
            rewards[agent] = number_of(found[agent])
        except ValueError as error:
            raise InvalidActionError(f"rewards() gave agent {agent!r} {error}") from error
    return rewards


def failure_line(error: Exception) -> str:
    """``error`` on one line, with the method that was called where it is the environment's own."""
    if isinstance(error, GrpoError):
        return f"{type(error).__name__}: {printable(' '.join(str(error).split()))}"
    frames = traceback.extract_tb(error.__traceback__)
    called = next((frame.name for frame in frames if Path(frame.filename).parent != _HERE), None)
    return described(error) if called is None else f"{called}() failed with {described(error)}"
