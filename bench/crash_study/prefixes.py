"""Every prefix of a run's writes: whatever is on disk when a process ends, the run goes on from it.

A copy of the home is taken before each call that makes something durable or visible: fsync, rename, unlink and the
like. A kill at that moment would leave that copy.
"""

from __future__ import annotations

import os
import random
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.crash_study.runs import Case, finish, grpo, next_arguments, outcome, start, wait

_mkdir = os.mkdir  # not the watched one
CALLS = ("fsync", "replace", "rename", "unlink", "rmdir", "mkdir")


@dataclass(frozen=True, slots=True)
class Prefixes:
    """From ``num_resumed`` of ``num_states`` states the run went on and ended as the uninterrupted one did."""

    num_states: int
    num_resumed: int


def study_prefixes(case: Case, num_most: int, model: Path, folder: Path, seed: int) -> Prefixes:
    """Go on from at most ``num_most`` of the states, drawn at random. ``case`` has no lag.

    Raises:
        AssertionError: a run does not go on, or ends in another way.
    """
    assert case.is_deterministic
    finish(case, model, folder / "whole")
    whole = outcome(case, folder / "whole")
    states = folder / "states"
    states.mkdir()
    run = start(lambda: _copying(folder / "traced", states, grpo(case.arguments(model))), folder / "traced")
    assert wait(run) == 0, (folder / "traced" / "output").read_text()[-2000:]
    found = sorted(states.iterdir())
    drawn = random.Random(seed).sample(found, min(num_most, len(found)))
    for state in drawn:
        code = wait(start(grpo(next_arguments(case, model, state)), state))
        assert code == 0, f"{state.name}: exit code {code}: {(state / 'output').read_text()[-2000:]}"
        assert outcome(case, state) == whole, f"{state.name}: ends in another way"
        shutil.rmtree(state)
    return Prefixes(len(found), len(drawn))


def _copying(home: Path, states: Path, work: Callable[[], int]) -> int:
    """``work``, with a copy of ``home`` in ``states`` before each of ``CALLS``."""
    lock = threading.RLock()
    num_copies = 0

    def watched(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            nonlocal num_copies
            with lock:
                _copy(home, states / f"{num_copies:05d} before {call.__name__}")
                num_copies += 1
                return call(*arguments, **options)

        return wrapped

    for name in CALLS:
        setattr(os, name, watched(getattr(os, name)))
    return work()


def _copy(home: Path, target: Path) -> None:
    """Files that another thread removes meanwhile are not copied: they are gone in a moment."""
    for folder, _, names in os.walk(home):
        there = target / Path(folder).relative_to(home)
        _mkdir(there)
        for name in names:
            if name != "output":
                try:
                    content = (Path(folder) / name).read_bytes()
                except FileNotFoundError:
                    continue
                (there / name).write_bytes(content)
