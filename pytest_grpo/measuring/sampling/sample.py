"""One sample of an arm: what it measured, the mean of some runs, with a quiet clock."""

from __future__ import annotations

import gc
import math
import numbers
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from pytest_grpo.measuring.sampling.clock import start_clock
from pytest_grpo.measuring.sampling.spans import per_run, recorded_spans
from pytest_grpo.types import Sample

__tracebackhide__ = True
"""Of an error in an arm, pytest shows the test and the arm, not what lies between."""

YOUNG = 1
"""Before a sample only young objects are collected: what earlier runs left. No collection runs during a sample, so it
is young still. With torch loaded, a collection of all objects takes a fifth of a second."""

Arm = Callable[[], "Sample | Mapping[str, float] | None"]
"""One side of a comparison. It returns its quantities (``seconds`` may be one of them), a ``Sample`` when it also has
an output to check, or None to be timed as a whole."""


class MeasurementError(ValueError):
    """An arm cannot be measured: what it returned is no result, or a value is not finite and positive.

    What an arm raises is a failure of the code under test, and passes through.
    """


def took_s(arm: Arm, name: str, repeats: int = 1) -> float:
    """The seconds of one run: by the clock or as the arm reports, whichever is longer."""
    (sample, *_), elapsed_s = _timed(arm, name, repeats)
    elapsed_s /= repeats
    _check(replace(sample, seconds=elapsed_s if sample.seconds is None else sample.seconds), name)
    return max(elapsed_s, sample.seconds or 0.0)


def measure(arm: Arm, name: str, repeats: int = 1) -> Sample:
    """One sample of ``arm``: the mean of ``repeats`` runs, without garbage collection, with an idle device at both
    ends. The output is that of the last run.

    Raises:
        MeasurementError: the arm measured something that is not finite and above zero.
    """
    gc.collect(YOUNG)
    outcome, elapsed_s = _timed(arm, name, repeats)
    sample = outcome[-1]
    if any(run.quantities.keys() != sample.quantities.keys() for run in outcome):
        raise MeasurementError(
            f"arm {name!r} returned different quantities in different runs; return the same ones each time"
        )
    own = [run.seconds for run in outcome if run.seconds is not None]
    sample = replace(
        sample,
        seconds=sum(own) / len(own) if own else elapsed_s / repeats,
        quantities={what: sum(run.quantities[what] for run in outcome) / len(outcome) for what in sample.quantities},
    )
    _check(sample, name)
    return sample


def _timed(arm: Arm, name: str, repeats: int = 1) -> tuple[list[Sample], float]:
    """The samples of the runs of ``arm`` and their total seconds. Runs that return None give one empty sample. The last
    one has the spans, a mean of all runs."""
    with _quiet(), recorded_spans() as spans:
        try:
            stop = start_clock()
            outcomes = [outcome for _ in range(repeats) if (outcome := arm()) is not None]
            seconds = stop()
        except Exception as error:  # the code under test failed, and so does the test: with this error
            error.add_note(f"raised in arm {name!r}")
            raise
    if outcomes and len(outcomes) != repeats:
        raise MeasurementError(
            f"arm {name!r} returned a result in {len(outcomes)} of {repeats} runs; return one in each run, or in none"
        )
    samples = [_as_sample(outcome, name) for outcome in outcomes] or [Sample()]
    return [*samples[:-1], replace(samples[-1], spans=samples[-1].spans or per_run(spans, repeats))], seconds


def _as_sample(outcome: Sample | Mapping[str, float], name: str) -> Sample:
    if isinstance(outcome, Mapping) and outcome:
        quantities = dict(outcome)
        outcome = Sample(seconds=quantities.pop("seconds", None), quantities=quantities)
    if not isinstance(outcome, Sample):
        raise MeasurementError(
            f"arm {name!r} returned {outcome!r}; allowed are quantities by name, a Sample, or None to be timed"
        )
    if "seconds" in outcome.quantities:
        raise MeasurementError(f"arm {name!r}: seconds is a field of its own; return Sample(seconds=..., ...)")
    for what, value in {"seconds": outcome.seconds or 0.0, **outcome.quantities}.items():
        if not isinstance(value, numbers.Real):
            meant = "an output is returned by Sample(output=...)" if what == "output" else "e.g. float(...) of a tensor"
            raise MeasurementError(f"arm {name!r}: {what} {value!r} is no number; quantities are numbers, {meant}")
    return outcome


def _check(sample: Sample, name: str) -> None:
    for what, value in {"seconds": sample.seconds, **sample.quantities}.items():
        # Counts may be zero: nothing is divided by them.
        if not math.isfinite(value) or value < 0 or (value == 0 and not what.startswith("num_")):
            raise MeasurementError(
                f"arm {name!r}: {what} {value!r} must be finite and above zero; check what it measures"
            )


@contextmanager
def only_new_objects_collected() -> Iterator[None]:
    """Leave the objects that exist now out of garbage collections: with torch loaded, each takes a tenth of a second.

    Where the process has frozen objects itself, its choice stands.
    """
    if gc.get_freeze_count():
        yield
        return
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def _quiet() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
