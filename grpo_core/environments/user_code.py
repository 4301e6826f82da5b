"""Code of the user's own: whatever it raises is one line, which names what was called, and where it failed."""

from __future__ import annotations

import importlib
import logging
import math
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from grpo_core.errors import ConfigError, EnvironmentCodeError, GrpoError, printable, shown

logger = logging.getLogger(__name__)

MAX_REWARD = 1e30
"""Of the absolute value: sums of larger rewards overflow, and so do their squares."""


@contextmanager
def users_code(what: str, advice: str) -> Iterator[None]:
    """Turn any error of the block into one that says that ``what`` failed, and ``advice``. ``--verbose`` logs the rest.

    Raises:
        EnvironmentCodeError: the block raised an error that is none of this project's, or wants to end the process.
    """
    try:
        yield
    except GrpoError:
        raise
    except (Exception, SystemExit) as error:  # it may be anything; a script without a guard exits when it is imported
        logger.info("%s failed", what, exc_info=error)
        raise EnvironmentCodeError(f"{what} failed with {described(error)}; {advice}") from error


def with_working_folder() -> None:
    """Put the working folder at the end of the import path."""
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())


def import_own(what: str, name: str, form: str) -> Any:
    """What ``name``, as ``package.module:attribute``, means. ``what`` names the setting, ``form`` what to give.

    The working folder is searched last, so that a file there needs no PYTHONPATH and hides no package.

    Raises:
        ConfigError: it cannot be imported, or has no such attribute.
        EnvironmentCodeError: the module fails when it is imported.
    """
    module_name, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), attribute)):
        raise ConfigError(f"{what} {name!r}: {form}")
    with_working_folder()
    with users_code(f"{what} {name!r}: importing {module_name!r}", "fix that module"):
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
                raise  # it is there; what it imports is not
            raise ConfigError(f"{what} {name!r}: cannot import {module_name!r} ({error}); {form}") from error
    if attribute not in module.__dict__:
        raise ConfigError(f"{what} {name!r}: {module_name!r} has no {attribute!r}; {form}")
    return module.__dict__[attribute]


def number_of(value: Any) -> float:
    """``value``, which a user's code gave as a reward.

    Raises:
        ValueError: it is no finite number of at most ``MAX_REWARD``. The message begins with the value.
    """
    try:
        if isinstance(value, str | bytes | bytearray):
            raise TypeError  # float would read it
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{shown(value)}, which is no number") from None
    if not math.isfinite(number):
        raise ValueError(f"{number}, which is not finite")
    if abs(number) > MAX_REWARD:
        raise ValueError(f"{number:g}, which is beyond {MAX_REWARD:g}")
    return number


def described(error: BaseException) -> str:
    """Its type, its text on one line, and the file and line that raised it."""
    if isinstance(error, SyntaxError):
        return printable(f"{type(error).__name__}: {' '.join(str(error).split())}")  # with file and line
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<frozen ")]
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return printable(f"{type(error).__name__}: {' '.join(str(error).split()) or 'no reason given'}{place}")
