"""What a run's events say, as far as advice needs it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import Any

from grpo_core.errors import ConfigError
from grpo_core.home import Home, check_name
from grpo_core.ledger.account import OTHER
from grpo_core.ledger.spans import SPANS
from grpo_core.telemetry.event_file import EventFile

TRAIN, ROLLOUT = "train", "rollout"
FIRST_PROCESS = "trainer-0"
_KINDS = ("run_started", "train_step", "rollout", "token_ledger", "ledger")
_NAMES = {**{span.column: span.name for span in SPANS}, "other_s": OTHER}

Seconds = Mapping[str, float]


@dataclass(frozen=True)
class RunRecord:
    """The events of a run by kind, in order. Of a run that was resumed, only its last process."""

    run: str
    events: Mapping[str, list[Mapping[str, Any]]] = field(repr=False)

    @property
    def max_policy_lag_steps(self) -> int:
        """0: rollouts and training take turns."""
        return int(self.events["run_started"][-1]["max_policy_lag_steps"])

    @cached_property
    def steps(self) -> range:
        """The warm steps: the first one loads and compiles, unless it is the only one."""
        numbers = sorted({int(event["step"]) for event in self.events["train_step"]})
        return range(numbers[min(1, len(numbers) - 1)], numbers[-1] + 1)

    @cached_property
    def step_s(self) -> float:
        """Wall clock per warm step, by the training thread."""
        return sum(self.spent_s(TRAIN).values())

    def spent_s(self, thread: str) -> Seconds:
        """Seconds per warm step of each span of a thread of process 0; what comes after the last step is left out."""
        seconds: dict[str, float] = defaultdict(float)
        seen: set[int] = set()
        for event in self.events["ledger"]:
            step = int(event["step"])
            is_last_rest = step in seen and step == self.steps[-1]
            if event["process"] != FIRST_PROCESS or event["thread"] != thread or is_last_rest:
                continue
            seen.add(step)
            if step in self.steps:
                for column, name in _NAMES.items():
                    seconds[name] += float(event[column])
        return {name: spent / len(self.steps) for name, spent in seconds.items() if spent}


def read_run(home: Home, run: str) -> RunRecord:
    """The record of ``run``.

    Raises:
        InvalidNameError: ``run`` is not a safe name.
        ConfigError: it has no events, no finished step, or no ledger.
    """
    path = home.events / f"{check_name(run, 'RUN')}.jsonl"
    events: dict[str, list[Mapping[str, Any]]] = {kind: [] for kind in _KINDS}
    for event in chain.from_iterable(EventFile(path).new_pages()):
        if event["kind"] == "run_started":
            for found in events.values():
                found.clear()
        if event["kind"] in events:
            events[event["kind"]].append(event)
    if not events["run_started"]:
        raise ConfigError(f"run {run!r}: no events in {home.events}; {_others(home)}")
    if not events["train_step"]:
        raise ConfigError(f"run {run!r}: no step has finished; wait for its first one")
    if not events["ledger"]:
        raise ConfigError(f"run {run!r}: its events have no ledger, as those of older versions; train it again")
    return RunRecord(run, events)


def _others(home: Home) -> str:
    newest = sorted(home.events.glob("*.jsonl"), key=lambda path: -path.stat().st_mtime)
    names = [path.stem for path in newest[:5]]
    return f"runs with events: {', '.join(names)}" if names else "there are none yet; start one with: grpo train"
