"""The session of ``--grpo-against``: each test with a gate runs on both sides, and its rows compare them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pytest

from pytest_grpo.against.arms import Arms
from pytest_grpo.against.expecting import Expected
from pytest_grpo.against.judging import bounds, judge_count
from pytest_grpo.against.pairs import rules_of
from pytest_grpo.against.side import ArmRaisedError, Side, SideLostError, Stop
from pytest_grpo.checkouts.signals import finish
from pytest_grpo.measuring.stats import Estimate
from pytest_grpo.remote.replay import lost_reports, restore_report
from pytest_grpo.session.findings import FINDINGS
from pytest_grpo.session.fixtures import gate_session, terminal_progress
from pytest_grpo.settings.config import PLUGIN_CONFIG
from pytest_grpo.settings.phases import phases_of, without_fixture
from pytest_grpo.types import AGAINST_SOURCE, PROPERTY_PREFIX, Conditions, Outcome, Row, Verdict

SAME_ANSWERS_MARKER = "grpo_same_answers"
WHOLE_TEST = "all arms"
"""Stands for the metric in a row about a whole test."""


def is_compared(item: pytest.Item) -> bool:
    """Whether a test has a gate, and so runs on both sides."""
    return bool(without_fixture([item], "grpo_gate")[1])


@dataclass(slots=True)
class Attempt:
    """One test on both sides."""

    item: pytest.Item
    following: str | None
    rows: list[Row] = field(default_factory=list)
    reports: tuple[Mapping[str, Any], ...] = ()
    """Of this side."""
    lost: str = ""
    """Why there are none."""


class AgainstSession:
    """Runs tests on both sides, one side at a time, and reports what this side said together with the rows."""

    def __init__(
        self,
        config: pytest.Config,
        open_sides: Callable[[], tuple[Side, Side]],
        expected: Mapping[str, Expected],
        differing: frozenset[str] | None,
        runs: Callable[[pytest.Item], bool],
    ) -> None:
        self._config = config
        self._open_sides = open_sides
        self._expected = expected
        self._differing = differing
        """Files of the project that differ between the sides; None when their packages differ, too."""
        self._runs = runs
        """Which tests this session runs on both sides."""
        self._findings = config.stash[FINDINGS]
        self._rng = random.Random()
        self._sides: tuple[Side, Side] | None = None

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        if not self._runs(item):
            return None
        self._start(item.session.items)
        compared = [each.nodeid for each in item.session.items if self._runs(each)]
        place = compared.index(item.nodeid)
        attempt = Attempt(item, compared[place + 1] if place + 1 < len(compared) else None)
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        self._run(attempt)
        for report in self._reports_of(attempt):
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self._sides is None:
            return
        for side in self._sides:
            finish(side.close)

    @property
    def _here(self) -> Side:
        assert self._sides is not None, "started before the first test"
        return self._sides[0]

    @property
    def _other(self) -> Side:
        assert self._sides is not None, "started before the first test"
        return self._sides[1]

    def _start(self, items: Sequence[pytest.Item]) -> None:
        """Start both workers before the first test, and note which tests only the other side has."""
        if self._sides is not None:
            return
        self._sides = self._open_sides()
        known = {item.nodeid for item in items}
        try:
            self._here.start()
        except SideLostError as error:
            raise pytest.UsageError(f"--grpo-against: no worker runs here: {error}") from None
        try:
            self._other.start()
        except SideLostError as error:
            raise pytest.UsageError(f"--grpo-against {self._other.name}: {error}") from None
        self._findings.add(
            gone=sorted(self._other.selected - self._here.collected - known),
            problems=[f"grpo: {self._other.name}: {where}: {why}" for where, why in self._other.errors.items()],
        )

    def _run(self, attempt: Attempt) -> None:
        """Run the test here and there, and compare the arms where both wait."""
        nodeid = attempt.item.nodeid
        try:
            here: Stop | None = self._here.run(nodeid, attempt.following)
        except SideLostError as error:
            attempt.lost = str(error)
            return
        other = self._begin_other(attempt)
        while here is not None and here.arms:
            here, other = self._compare_arms(attempt, here, other)
        while other is not None and other.arms:
            attempt.rows += [self._missing(attempt, arm, Outcome.GONE) for arm in other.arms]
            other = self._go_on(attempt, self._other)
        if here is None:
            return
        attempt.reports = here.reports
        if other is not None:
            attempt.rows += self._exact_rows(attempt, here, other)
            attempt.rows += self._failed_there(attempt, other)
            attempt.rows = self._unless_untouched(attempt.rows, here, other)

    def _begin_other(self, attempt: Attempt) -> Stop | None:
        """Where the test stopped on the other side; None, with a row, where it does not run."""
        nodeid = attempt.item.nodeid
        try:
            self._other.start()
            if nodeid in self._other.collected:
                return self._other.run(nodeid, attempt.following)
        except SideLostError as error:
            attempt.rows.append(self._not_compared(attempt, str(error)))
            return None
        file = nodeid.partition("::")[0]
        why = self._other.errors.get(file)
        if why:
            attempt.rows.append(self._not_compared(attempt, why))
        else:
            attempt.rows.append(self._row(attempt, WHOLE_TEST, Outcome.NEW, Verdict.PASS, reason="new test"))
        return None

    def _compare_arms(self, attempt: Attempt, here: Stop, other: Stop | None) -> tuple[Stop | None, Stop | None]:
        """Compare, and let both go on; returns where they stop next."""
        stopped: dict[str, Stop | None] = {}
        if other is not None and other.arms:
            session = gate_session(self._config)
            share = session.ledger.grant()
            arms = Arms(
                (self._here, self._other),
                (here, other),
                rules_of(self._config.stash[PLUGIN_CONFIG]),
                self._expected,
                self._wants_same_answers(attempt.item),
                self._rng,
                lambda *args, **fields: self._row(attempt, *args, **fields),
            )
            show = terminal_progress(self._config) or (lambda text: None)
            try:
                rows = arms.compare(share, session.control_problem(), show)
            except ArmRaisedError as error:
                side = self._here if error.side == self._here.name else self._other
                attempt.rows.append(self._not_compared(attempt, f"{side.name}: {error}"))
                stopped[side.name] = self._after_error(attempt, side)
            except SideLostError as error:
                is_here = error.side == self._here.name
                attempt.rows.append(self._not_compared(attempt, f"{error.side}: {error}"))
                attempt.lost = str(error) if is_here else ""
                stopped[error.side] = None
            else:
                attempt.rows += rows
                self._findings.add(seen=[row.metric for row in rows])
        elif other is not None:
            attempt.rows += [self._missing(attempt, arm, Outcome.NEW) for arm in here.arms]
        next_here = stopped[self._here.name] if self._here.name in stopped else self._go_on(attempt, self._here)
        if other is None or not other.arms:
            return next_here, other
        name = self._other.name
        return next_here, stopped[name] if name in stopped else self._go_on(attempt, self._other)

    def _go_on(self, attempt: Attempt, side: Side) -> Stop | None:
        try:
            return side.release()
        except SideLostError as error:
            return self._note_lost(attempt, side, error)

    def _after_error(self, attempt: Attempt, side: Side) -> Stop | None:
        try:
            return side.wait()
        except SideLostError as error:
            return self._note_lost(attempt, side, error)

    def _note_lost(self, attempt: Attempt, side: Side, error: SideLostError) -> None:
        if side is self._here:
            attempt.lost = str(error)
        else:
            attempt.rows.append(self._not_compared(attempt, str(error)))

    def _wants_same_answers(self, item: pytest.Item) -> bool:
        marked = next(item.iter_markers(SAME_ANSWERS_MARKER), None) is not None
        return marked or self._config.stash[PLUGIN_CONFIG].same_answers

    def _exact_rows(self, attempt: Attempt, here: Stop, other: Stop) -> list[Row]:
        """A row for each exact value that differs between the sides."""
        theirs = {row.metric: row for row in rows_in(other.reports) if row.num_pairs is None}
        rows = []
        for row in rows_in(here.reports):
            before = theirs.get(row.metric)
            if row.num_pairs is not None or before is None or row.measured == before.measured:
                continue
            outcome = judge_count(row.measured, before.measured)
            reason = f"{row.measured:g} here, {before.measured:g} in {self._other.name}"
            rows.append(self._row(attempt, row.metric, outcome, Verdict.PASS, reason=reason))
        return rows

    def _failed_there(self, attempt: Attempt, other: Stop) -> list[Row]:
        """A row when the test failed on the other side, unless an arm's error is a row already."""
        failed = [report["longrepr"] for report in other.reports if report["outcome"] == "failed"]
        if not failed or any(row.outcome == Outcome.NOT_COMPARED and row.metric == WHOLE_TEST for row in attempt.rows):
            return []
        is_error = isinstance(failed[0], Mapping)  # else the text that pytest.fail was given
        said = failed[0]["reprcrash"]["message"] if is_error and failed[0]["reprcrash"] else str(failed[0])
        first_line, _, _ = said.strip().partition("\n")
        reason = f"{self._other.name}: {first_line}"
        return [self._row(attempt, WHOLE_TEST, Outcome.FAILS_THERE, Verdict.PASS, reason=reason)]

    def _unless_untouched(self, rows: list[Row], here: Stop, other: Stop) -> list[Row]:
        """``rows``; a change becomes unproven where no file that the test has loaded differs between the sides."""
        if self._differing is None or self._differing & {*here.imported, *other.imported}:
            return rows
        if any(not name.endswith((".py", ".md", ".rst")) for name in self._differing):
            return rows
        return [_untouched(row) if row.num_pairs is not None else row for row in rows]

    def _missing(self, attempt: Attempt, arm: str, outcome: Outcome) -> Row:
        return self._row(attempt, f"{arm}.seconds", outcome, Verdict.PASS, reason=f"arm {arm} is {outcome}")

    def _not_compared(self, attempt: Attempt, why: str) -> Row:
        reason = f"cannot be compared: {why}"
        return self._row(attempt, WHOLE_TEST, Outcome.NOT_COMPARED, Verdict.INCONCLUSIVE, reason=reason)

    def _row(
        self,
        attempt: Attempt,
        metric: str,
        outcome: Outcome,
        verdict: Verdict,
        *,
        reason: str = "",
        measured: float = float("nan"),
        estimate: Estimate | None = None,
        quantity: str | None = None,
        ratios: list[float] | None = None,
        arms: dict[str, dict[str, list[float]]] | None = None,
        conditions: Conditions | None = None,
        duration_s: float = 0.0,
    ) -> Row:
        low, high = bounds(self._config.stash[PLUGIN_CONFIG].tolerance)
        return Row(
            metric=metric,
            phase=min(phases_of(attempt.item), default=None),
            kind="within",
            bound_low=low,
            bound_high=high,
            threshold=f"{low:.3g}..{high:.3g}",
            source=f"{AGAINST_SOURCE}{self._other.name}",
            unit="",
            verdict=verdict.value,
            reason=reason,
            measured=measured,
            device=self._here.device,
            low=None if estimate is None else estimate.low,
            high=None if estimate is None else estimate.high,
            confidence=None if estimate is None else estimate.confidence,
            num_pairs=None if estimate is None else estimate.num_pairs,
            ratios=ratios,
            quantity=quantity,
            arms=arms,
            conditions=None if conditions is None else asdict(conditions),
            duration_s=duration_s,
            outcome=outcome.value,
        )

    def _reports_of(self, attempt: Attempt) -> Iterable[pytest.TestReport]:
        """What this side reported, with the rows, by which the test fails or stays undecided."""
        if not attempt.reports:
            yield from lost_reports(attempt.item, attempt.lost or "it said nothing")
            return
        reports = [restore_report(self._config, dict(data)) for data in attempt.reports]
        properties = [row.as_property() for row in attempt.rows]
        red = [row for row in attempt.rows if row.verdict == Verdict.FAIL]
        undecided = [row for row in attempt.rows if row.verdict == Verdict.INCONCLUSIVE]
        is_strict = self._config.stash[PLUGIN_CONFIG].inconclusive == "fail"
        for report in reports:
            report.user_properties += properties
            if report.when == "call" and report.outcome != "failed":
                if red or (undecided and is_strict):
                    report.outcome = "failed"
                    report.longrepr = "\n".join(map(describe, red or undecided))
                elif undecided:
                    report.outcome = "skipped"
                    report.wasxfail = "; ".join(map(describe, undecided))
            yield report


def describe(row: Row) -> str:
    """``step.tokens_per_second: slower: 0.88 [0.86, 0.91]``"""
    text = f"{row.metric}: {row.outcome}"
    if row.low is not None and row.high is not None:
        text += f": {row.measured:.3g} [{row.low:.3g}, {row.high:.3g}]"
    return f"{text}: {row.reason}" if row.reason else text


def rows_in(reports: Sequence[Mapping[str, Any]]) -> list[Row]:
    """The rows of the last of a test's reports, which has them all."""
    properties = reports[-1]["user_properties"] if reports else []
    return [Row.from_property(text) for name, text in properties if name.startswith(PROPERTY_PREFIX)]


def _untouched(row: Row) -> Row:
    if row.outcome not in (Outcome.FASTER, Outcome.SLOWER, Outcome.MORE, Outcome.LESS):
        return row
    reason = "unproven: no file that this test loads differs between the sides, so something else moved"
    return replace(row, outcome=Outcome.INCONCLUSIVE.value, verdict=Verdict.INCONCLUSIVE.value, reason=reason)
