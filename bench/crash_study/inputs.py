"""Bad inputs to every parser: each answer is a value, or an error of a known kind in one line, soon."""

from __future__ import annotations

import logging
import os
import random
import resource
import signal
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.crash_study.mutations import as_json, damage, harm
from bench.crash_study.parser import Parser
from bench.crash_study.parsers import PARSERS

MAX_INPUT_S = 5
MAX_MEMORY_BYTES = 1 << 30
MAX_LINE = 2_000


@dataclass(frozen=True, slots=True)
class Inputs:
    """``num_inputs`` to a parser, of which it refused ``num_refused``; the others it could read."""

    num_inputs: int
    num_refused: int


def study_inputs(parser: Parser, num_inputs: int, folder: Path, seed: int) -> Inputs:
    """Give ``num_inputs`` bad inputs to ``parser``, in a process of its own.

    Raises:
        AssertionError: it crashes, takes too long or too much memory, or raises an error that is not a line of its own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    result = folder / "result"
    pid = os.fork()
    if not pid:
        code = 1
        try:
            result.write_text(str(_count_refused(parser, num_inputs, folder, seed)))
            code = 0
        except BaseException:
            result.write_text(traceback.format_exc())
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    said = result.read_text() if result.exists() else f"exit code {code}"
    assert code == 0, f"{parser.name}: {said}"
    return Inputs(num_inputs, int(said))


def _count_refused(parser: Parser, num_inputs: int, folder: Path, seed: int) -> int:
    logging.disable()  # a damaged cache entry is a warning each
    parse = parser.prepare(folder)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    num_refused = 0
    for number in range(num_inputs):
        rng = random.Random(f"{parser.name} {seed} {number}")
        if parser.structure is not None and rng.random() < 0.6:
            content = as_json(harm(rng, parser.structure()))
        else:
            content = damage(rng, parser.content())
        num_refused += _is_refused(parse, content, f"{parser.name}, seed {seed}, input {number}")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < MAX_MEMORY_BYTES, f"{parser.name}: {grown >> 20} MiB"
    return num_refused


def _is_refused(parse: Callable[[bytes], object], content: bytes, where: str) -> bool:
    signal.signal(signal.SIGPROF, _too_slow)
    signal.setitimer(signal.ITIMER_PROF, MAX_INPUT_S)
    try:
        parse(content)
    except _known_errors() as error:
        said = str(error)
        assert said, f"{where}: an error without a word"
        assert "\n" not in said, f"{where}: several lines: {said[:MAX_LINE]!r}"
        assert len(said) < MAX_LINE, f"{where}: a line of {len(said)} characters: {said[:200]!r}"
        return True
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return False


def _known_errors() -> tuple[type[Exception], ...]:
    import pytest

    from grpo_core.errors import GrpoError
    from pytest_grpo.remote.project_files import TreeError
    from pytest_grpo.remote.protocol import RemoteLostError, RemoteRefusedError

    return (GrpoError, pytest.UsageError, TreeError, RemoteLostError, RemoteRefusedError)


def _too_slow(*_: object) -> None:
    raise TimeoutError(f"more than {MAX_INPUT_S} s of a processor")


def names() -> tuple[str, ...]:
    return tuple(parser.name for parser in PARSERS)
