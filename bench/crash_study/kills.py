"""``kill -9`` at random moments: a run goes on until it is done, however often that takes."""

from __future__ import annotations

import random
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from bench.crash_study.runs import (
    RUN,
    Case,
    Moment,
    Outcome,
    events,
    finish,
    grpo,
    history,
    home_of,
    kill_at,
    next_arguments,
    outcome,
    start,
    wait,
)
from grpo_core.commands.command_line.parser import USER_ERROR_EXIT_CODE
from grpo_core.training.checkpoint.state import newest_state

MAX_STEPS_BETWEEN_KILLS = 4


@dataclass(frozen=True, slots=True)
class Kills:
    """What came of it: ``num_kills`` in ``num_runs`` runs that ended well. Anything else is an AssertionError."""

    num_kills: int
    num_runs: int
    num_resumes: int


def study_kills(case: Case, num_kills: int, model: Path, folder: Path, seed: int) -> Kills:
    """Kill runs of ``case`` until ``num_kills`` have hit, and let each run end.

    Raises:
        AssertionError: something is torn, lost, trained on twice, or came out in another way.
    """
    rng = random.Random(f"{case.name} {seed}")
    whole, first_step_s, step_s = _whole_run(case, model, folder / "whole")
    num_runs = num_resumes = done = 0
    while done < num_kills:
        hurt = folder / f"hurt-{num_runs}"
        stored: set[int] = set()
        while done < num_kills:
            arguments = next_arguments(case, model, hurt)
            num_resumes += "--resume" in arguments
            num_events = len(events(hurt))
            moment = _draw(rng, first_step_s, step_s)
            code = kill_at(start(grpo(arguments), hurt), moment, hurt, rng)
            _check_collected_once(hurt, stored, num_events)
            if code == 0:
                break
            is_hit = code == -9 or (case.has_others and code == USER_ERROR_EXIT_CODE)  # it lost one of its own
            assert is_hit, f"exit code {code}: {(hurt / 'output').read_text()[-2000:]}"
            done += 1
            stored = _check_whole(case, hurt)
        finish(case, model, hurt)
        _check_outcome(case, outcome(case, hurt), whole)
        shutil.rmtree(hurt)
        num_runs += 1
    return Kills(done, num_runs, num_resumes)


def _whole_run(case: Case, model: Path, folder: Path) -> tuple[Outcome, float, float]:
    """An uninterrupted run, the time to its first step, and the time of a step."""
    began_s = time.time()
    finish(case, model, folder)
    ended = [event["time"] for event in events(folder) if event["kind"] == "train_step"]
    return outcome(case, folder), ended[0] - began_s, (ended[-1] - ended[0]) / (len(ended) - 1)


def _draw(rng: random.Random, first_step_s: float, step_s: float) -> Moment:
    """One kill in four hits while models are loaded, recovered or played with for the first time, the others later."""
    num_steps = rng.randint(0, MAX_STEPS_BETWEEN_KILLS) if rng.random() < 0.75 else 0
    return Moment(num_steps, rng.uniform(0.0, 1.5 * step_s if num_steps else first_step_s))


def _check_outcome(case: Case, found: Outcome, whole: Outcome) -> None:
    if case.is_deterministic:
        assert found.losses == whole.losses, f"{case.name}: losses differ from those of the uninterrupted run"
        assert found.weights == whole.weights, f"{case.name}: weights differ from those of the uninterrupted run"


def _check_collected_once(folder: Path, stored: set[int], num_events: int) -> None:
    """A batch that was on disk is not played again: its trajectories would be lost."""
    played = {event["batch_index"] for event in events(folder)[num_events:] if event["kind"] == "rollout"}
    assert not played & stored, f"batches {sorted(played & stored)} were on disk and were played again"


def _check_whole(case: Case, folder: Path) -> set[int]:
    """Read all that a killed process left, in another process. The batches that the run must use when it goes on."""
    code = wait(start(lambda: _read_all(folder), folder))
    assert code == 0, f"something is torn: {(folder / 'output').read_text()[-2000:]}"
    history(case, folder)
    home = home_of(folder)
    state = newest_state(home.checkpoints / RUN)
    if state is None:
        return set()  # the run starts again
    indices = {int(path.stem[-6:]) for path in (home.buffer / RUN).glob("batch-*.arrow")}
    return {index for index in indices if index >= state["step"]}


def _read_all(folder: Path) -> int:
    from grpo_core.lora.store import AdapterStore
    from grpo_core.schedule.buffer.batch_file import read_batch
    from grpo_core.training.checkpoint.checkpoint import read_checkpoint
    from grpo_core.training.checkpoint.state import checkpoints_in

    home = home_of(folder)
    for path in checkpoints_in(home.checkpoints / RUN):
        read_checkpoint(path)
    for path in (home.buffer / RUN).glob("batch-*.arrow"):
        read_batch(path)
    store = AdapterStore(home.adapters)
    for version in store.versions(RUN):
        store.load(version)
    return 0
