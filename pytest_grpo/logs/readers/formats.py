"""The formats, and which of them a file has."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_grpo.logs.readers.events import EventsReader
from pytest_grpo.logs.readers.prime_rl import PrimeConsoleReader, PrimeFileReader
from pytest_grpo.logs.readers.protocol import Reader
from pytest_grpo.logs.readers.trainer_state import TrainerStateReader
from pytest_grpo.logs.readers.verl import VerlConsoleReader, VerlFileReader
from pytest_grpo.logs.readers.wandb_file import WandbReader
from pytest_grpo.logs.run_log import RunLog, assemble

READERS: tuple[Reader, ...] = (
    WandbReader(),
    EventsReader(),
    VerlFileReader(),
    PrimeFileReader(),
    TrainerStateReader(),
    VerlConsoleReader(),
    PrimeConsoleReader(),
)
"""In the order in which they are asked: what is told by its first bytes comes first."""
FORMATS = tuple(reader.name for reader in READERS)


def read_run(path: Path, name: str, format: str | None = None) -> RunLog:
    """The run in the file ``path``, which a message calls ``name``; of the format that it has, unless told.

    Raises:
        pytest.UsageError: the file cannot be read, is empty, or is of no known format.
    """
    try:
        if not path.stat().st_size:
            raise pytest.UsageError(f"{name}: the file is empty; name the log of a run that took steps")
        reader = _recognised(path, name) if format is None else READERS[FORMATS.index(format)]
        reading = reader.read(path)
    except OSError as error:
        raise pytest.UsageError(f"{name}: cannot be read: {error.strerror}; name the log of a run") from error
    return assemble(name, reader.title, reader.vocabulary(reading), reading)


def _recognised(path: Path, name: str) -> Reader:
    reader = next((reader for reader in READERS if reader.recognises(path)), None)
    if reader is None:
        known = ", ".join(f"{reader.title} ({reader.name})" for reader in READERS)
        raise pytest.UsageError(f"{name}: of no known format; known are {known}; say which with --format")
    return reader
