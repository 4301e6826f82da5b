"""What can go wrong for a user, each a one-line message that names the input, what is allowed and what to do.

GrpoError (ValueError)
├── ConfigError           a key, a value or two values that contradict each other
├── InvalidNameError      a name from outside that could leave its folder
├── HomeError             GRPO_HOME cannot be written
├── MissingPackageError   an optional package is not installed
├── CredentialsError      a service was asked for without its credentials
├── ModelError            a preset, folder or hub id that gives no usable model
├── PromptError           an empty prompt, or one that does not fit the model's context
├── SamplingError         a sampling parameter out of its range, or non-finite logits
├── EngineError           a rollout engine that does not start, hangs or has died
├── CapacityError         a request that does not fit the memory of the engine
├── ConstraintError       a constraint that allows nothing, or was broken
├── InvalidActionError    an action or a position that an environment cannot accept
├── EpisodeError          an environment that failed in every attempt at an episode
├── EnvironmentCodeError  an environment of one's own that cannot be imported, made or started
├── AdapterError
│   ├── AdapterNotFoundError
│   └── AdapterCorruptError
├── BatchError            trajectories that cannot be trained on
├── StoredBatchError      a stored batch that cannot be read
├── SnapshotError         a stored profile snapshot that cannot be read
├── CheckpointError       a checkpoint that cannot be read or does not fit
└── LostProcessError      another process of the same training is gone
"""

from __future__ import annotations

import unicodedata

_TURNS = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
"""They turn the direction in which text is written."""
_MAX_SHOWN = 100
_MAX_LINE_LENGTH = 300


def shown(value: object) -> str:
    """``value`` in a message: its ``repr`` on one line, cut where it is long."""
    try:
        text = " ".join(repr(value).splitlines())
    except ValueError:  # a whole number of thousands of digits
        return "a number as long as this"
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def printable(text: str) -> str:
    """``text`` as a terminal may show it: what would move its cursor, colour it or turn its direction is escaped."""
    return "".join(
        character.encode("unicode_escape").decode() if _is_control(character) else character for character in text
    )


def _is_control(character: str) -> bool:
    if character in "\n\t":
        return False
    return unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or character in _TURNS


def first_line(error: Exception) -> str:
    """The first line of a library's error message, with the second one where the first only announces it; cut where it
    is long."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return printable(" ".join(lines[: 2 if lines[0].endswith(":") else 1])[:_MAX_LINE_LENGTH])


class GrpoError(ValueError):
    """Base of every error that a user can cause and fix."""


class ConfigError(GrpoError):
    pass


class InvalidNameError(GrpoError):
    pass


class HomeError(GrpoError):
    pass


class MissingPackageError(GrpoError, ImportError):
    """Code that asks for the package in the usual way catches ImportError."""


class CredentialsError(GrpoError):
    pass


class ModelError(GrpoError):
    pass


class PromptError(GrpoError):
    pass


class SamplingError(GrpoError):
    pass


class EngineError(GrpoError):
    pass


class CapacityError(GrpoError):
    pass


class ConstraintError(GrpoError):
    pass


class InvalidActionError(GrpoError):
    pass


class EpisodeError(GrpoError):
    pass


class EnvironmentCodeError(GrpoError):
    pass


class AdapterError(GrpoError):
    pass


class AdapterNotFoundError(AdapterError):
    pass


class AdapterCorruptError(AdapterError):
    pass


class BatchError(GrpoError):
    pass


class StoredBatchError(GrpoError):
    pass


class SnapshotError(GrpoError):
    pass


class CheckpointError(GrpoError):
    pass


class LostProcessError(GrpoError):
    pass
