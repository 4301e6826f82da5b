"""The plugin's values: an arm's Samples -> Rounds -> an Estimate -> a Verdict, recorded as one Row.

A row holds builtin types only, so it can be stored as JSON. It travels with the test's report, from an xdist worker or
another machine alike; baselines and reports are built from rows.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal

Kind = Literal["at_least", "at_most", "within", "equals"]
KINDS: tuple[Kind, ...] = ("at_least", "at_most", "within", "equals")

PROPERTY_PREFIX = "grpo."
NOT_APPLICABLE = "not applicable"
NOT_APPLICABLE_PROPERTY = "grpo_not_applicable"
CHILD_PLUGIN = "pytest_grpo.remote.child_plugin"
SIDE_PLUGIN = "pytest_grpo.against.worker.serving"
SIDE_FOLDER = ".grpo-other"
"""Where a worker elsewhere has the files of the other side: below the project's root."""
CHILD_PLUGINS = (CHILD_PLUGIN, SIDE_PLUGIN)
"""One of them is loaded in a process that runs tests for another session; there the tests always run in place."""

AGAINST_SOURCE = "--grpo-against "
"""Before the name of the other version, in ``Row.source``."""

RATE_SUFFIX = "_per_second"

REFERENCE_ARM = "reference"
"""An arm of this name does pinned work of its own: its outputs are not compared, and baselines and history follow the
seconds of the other arms over its seconds."""

PEAK_BYTES = "peak_memory_bytes"
"""What a comparison of two versions measures of each arm beside the time."""

COUNT_PREFIX = "num_"
"""Quantities with this prefix are counts: compared exactly, without statistics. Their rates are not."""


def is_count(metric: str) -> bool:
    """Whether it is exact: compared without statistics."""
    return metric.startswith(COUNT_PREFIX) and not metric.endswith(RATE_SUFFIX)


class Verdict(enum.StrEnum):
    """What a measurement says about its threshold."""

    PASS = "pass"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


class Outcome(enum.StrEnum):
    """What a comparison of two versions found about one quantity of an arm, or why it found nothing."""

    FASTER = "faster"
    SLOWER = "slower"
    SAME = "same"
    MORE = "more"
    LESS = "less"
    """Of a count or of bytes: neither is good or bad by itself."""
    DIFFERS = "differs"
    """Of answers."""
    INCONCLUSIVE = "inconclusive"
    NEW = "new here"
    GONE = "gone here"
    NOT_COMPARED = "not compared"
    FAILS_THERE = "fails there"
    """Of a test that fails on the other side."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What one run of an arm measured: ``Sample(seconds=0.2, quantities={"tokens": 512})``.

    Without ``seconds`` the plugin times the run. ``output`` is compared between the arms to check correctness; it is
    never stored.
    """

    seconds: float | None = None
    quantities: Mapping[str, float] = field(default_factory=dict)
    output: object = None
    spans: Mapping[str, float] = field(default_factory=dict)
    """Seconds of its parts, by name, which do not overlap: a red gate names the one that grew. Where the arm says none,
    they are the spans of grpo_core's ledger."""

    def value(self, metric: str) -> float:
        """``seconds``, one of the quantities, or ``<quantity>_per_second``.

        Raises:
            KeyError: the sample has no such quantity.
        """
        assert self.seconds is not None, "filled in when the arm is measured"
        if metric == "seconds":
            return self.seconds
        if metric not in self.quantities and metric.endswith(RATE_SUFFIX):
            return self.quantities[metric.removesuffix(RATE_SUFFIX)] / self.seconds
        return self.quantities[metric]


@dataclass(frozen=True, slots=True)
class Conditions:
    """What the machine did while a gate sampled. None means unknown."""

    cores_of_others: float | None = None
    cpu_mhz: float | None = None
    gpu_sm_mhz: float | None = None
    gpu_temperature_c: float | None = None
    gpu_throttle_reasons: tuple[str, ...] = ()
    problem: str = ""
    """Why no timing of these samples can be trusted; empty when they can."""


@dataclass(frozen=True, slots=True)
class Row:
    """One verdict.

    ``bound_low`` and ``bound_high`` are the threshold's edges, None where it is open. ``low`` to ``high`` covers the
    true median of ``ratios`` with probability ``confidence``; these and ``num_pairs`` are None for a plain number or a
    count.
    ``arms`` holds, per arm, the values of each quantity per pair, ``seconds`` among them; ``quantity`` is the one that
    was compared.
    """

    metric: str
    phase: int | None
    kind: Kind
    bound_low: float | None
    bound_high: float | None
    threshold: str
    source: str
    """Where the threshold came from, e.g. ``--grpo-threshold`` or a file."""
    unit: str
    verdict: str
    reason: str
    """Why the verdict is not a pass; empty for a pass."""
    measured: float
    device: str
    system: str = ""
    """The stack that was measured; empty where a test does not say."""
    low: float | None = None
    high: float | None = None
    confidence: float | None = None
    num_pairs: int | None = None
    ratios: list[float] | None = None
    quantity: str | None = None
    arms: dict[str, dict[str, list[float]]] | None = None
    conditions: dict[str, object] | None = None
    duration_s: float = 0.0
    laid_over: str = ""
    """The settings that the test needed in place of those of the user's run."""
    outcome: str = ""
    """Of a comparison of two versions, an ``Outcome``; ``arms`` are then the two sides. Else empty."""
    note: str = ""
    """Where ``measured`` is from, if the gate did not measure it itself: ``as told by the system``."""

    @property
    def system_key(self) -> str:
        """To find the same gate in earlier results, in which grpo_core also stood for no system."""
        return self.system or "grpo_core"

    def as_property(self) -> tuple[str, str]:
        """The row as an entry of ``user_properties``: its name, and JSON."""
        return f"{PROPERTY_PREFIX}{self.metric}", json.dumps(asdict(self))

    @classmethod
    def from_property(cls, text: str) -> Row:
        """The row of that JSON."""
        return cls(**json.loads(text))


@dataclass(frozen=True, slots=True)
class Absence:
    """A test of a phase that has nothing to judge: the run or the system lacks what it is about."""

    phase: int
    reason: str

    def as_property(self) -> tuple[str, str]:
        """As an entry of ``user_properties``: its name, and JSON."""
        return NOT_APPLICABLE_PROPERTY, json.dumps(asdict(self))

    @classmethod
    def from_property(cls, text: str) -> Absence:
        """The absence of that JSON."""
        return cls(**json.loads(text))


def without_verdicts(properties: Iterable[tuple[str, object]]) -> list[tuple[str, object]]:
    """``user_properties`` without rows and absences."""
    return [
        (name, value)
        for name, value in properties
        if name != NOT_APPLICABLE_PROPERTY and not name.startswith(PROPERTY_PREFIX)
    ]
