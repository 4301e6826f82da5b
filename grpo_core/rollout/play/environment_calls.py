"""What an environment gives, checked where it is asked: a message says which of its methods gave what."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from grpo_core import environments
from grpo_core.environments.protocol import Environment
from grpo_core.environments.user_code import described, number_of
from grpo_core.errors import GrpoError, InvalidActionError, printable, shown
from grpo_core.types import Observation

_ENVIRONMENTS = Path(str(environments.__file__)).parent
_PACKAGE = _ENVIRONMENTS.parent


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
    return tuple(_checked(each) for each in found)


def _checked(observation: Observation) -> Observation:
    """With its choices in tuples, by which constraints are kept."""
    prompt, messages, choices = observation.prompt, observation.messages, observation.choices
    given = f"observe() gave agent {observation.agent!r}"
    if not isinstance(prompt, str):
        raise InvalidActionError(f"{given} the prompt {shown(prompt)}; give a text")
    if messages is not None and not _is_chat(messages):
        raise InvalidActionError(f"{given} the messages {shown(messages)}; give a list of messages, each with a role")
    if choices is None:
        return observation
    if not _are_choices(choices):
        raise InvalidActionError(
            f"{given} the choices {shown(choices)}; give a tuple of segments, each a tuple of one line or more, or "
            "None for a free answer"
        )
    return replace(observation, choices=tuple(map(tuple, choices)))


def _is_chat(messages: object) -> bool:
    return (
        isinstance(messages, Sequence)
        and not isinstance(messages, str)
        and bool(messages)
        and all(isinstance(each, Mapping) and isinstance(each.get("role"), str) for each in messages)
    )


def _are_choices(choices: object) -> bool:
    """Looks at the first line of each segment only: there may be thousands."""
    if not isinstance(choices, tuple | list) or not choices:
        return False
    return all(isinstance(lines, tuple | list) and bool(lines) and isinstance(lines[0], str) for lines in choices)


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
        try:
            rewards[agent] = number_of(found[agent])  # a table may have a default
        except KeyError:
            others = sorted(map(str, found))
            raise InvalidActionError(
                f"rewards() has none for agent {agent!r}, only for {others}; give it a number"
            ) from None
        except ValueError as error:
            raise InvalidActionError(f"rewards() gave agent {agent!r} {error}; give a finite number") from error
    return rewards


def failure_line(error: Exception) -> str:
    """``error`` on one line, with the method that was called where it is an environment's."""
    if isinstance(error, GrpoError):
        return f"{type(error).__name__}: {printable(' '.join(str(error).split()))}"
    frames = traceback.extract_tb(error.__traceback__)
    called = next((frame.name for frame in frames if _is_of_environment(Path(frame.filename))), None)
    return described(error) if called is None else f"{called}() failed with {described(error)}"


def _is_of_environment(file: Path) -> bool:
    return not file.is_relative_to(_PACKAGE) or file.is_relative_to(_ENVIRONMENTS)
