"""Code of the user's own: whatever it raises is one line, which names what was called, and where it failed."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from grpo_core.errors import EnvironmentCodeError, GrpoError

logger = logging.getLogger(__name__)


@contextmanager
def users_code(what: str, advice: str) -> Iterator[None]:
    """Turn any error of the block into one that says that ``what`` failed, and ``advice``. ``--verbose`` logs the rest.

    Raises:
        EnvironmentCodeError: the block raised an error that is none of this project's.
    """
    try:
        yield
    except GrpoError:
        raise
    except Exception as error:  # it may be anything
        logger.info("%s failed", what, exc_info=error)
        raise EnvironmentCodeError(f"{what} failed with {_described(error)}; {advice}") from error


def _described(error: Exception) -> str:
    """Its type, its text on one line, and the file and line that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split()) or 'no reason given'}{place}"
