"""The session of ``--grpo-against``: each test with a gate runs on both sides, and its rows compare them."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

import pytest

from pytest_grpo.against.arms import Arms
from pytest_grpo.against.attempt import Attempt
from pytest_grpo.against.expecting import Expected
from pytest_grpo.against.pairs import rules_of
from pytest_grpo.against.rows import WHOLE_TEST, RowWriter, unless_moved
from pytest_grpo.against.side import ArmRaisedError, Side, SideLostError, Stop
from pytest_grpo.checkouts.signals import finish
from pytest_grpo.session.findings import FINDINGS
from pytest_grpo.session.fixtures import gate_session, terminal_progress
from pytest_grpo.settings.config import PLUGIN_CONFIG
from pytest_grpo.settings.phases import phases_of, without_fixture
from pytest_grpo.types import Outcome, Row, Verdict

SAME_ANSWERS_MARKER = "grpo_same_answers"


def is_compared(item: pytest.Item) -> bool:
    """Whether a test has a gate, and so runs on both sides."""
    return bool(without_fixture([item], "grpo_gate")[1])


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
        tolerance = self._config.stash[PLUGIN_CONFIG].tolerance
        write = RowWriter(min(phases_of(item), default=None), self._here.device, tolerance, self._other.name)
        attempt = Attempt(item, compared[place + 1] if place + 1 < len(compared) else None, write)
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        self._run(attempt)
        for report in attempt.final_reports():
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
            attempt.rows += [attempt.write.missing(arm, Outcome.GONE) for arm in other.arms]
            other = self._go_on(attempt, self._other)
        if here is None:
            return
        attempt.reports = here.reports
        if other is not None:
            attempt.rows += attempt.write.exact_rows(here.reports, other.reports)
            attempt.rows += attempt.write.failed_there(other.reports, attempt.rows)
            attempt.rows = self._unless_untouched(attempt.rows, here, other)

    def _begin_other(self, attempt: Attempt) -> Stop | None:
        """Where the test stopped on the other side; None, with a row, where it does not run."""
        nodeid = attempt.item.nodeid
        try:
            self._other.start()
            if nodeid in self._other.collected:
                return self._other.run(nodeid, attempt.following)
        except SideLostError as error:
            attempt.rows.append(attempt.write.not_compared(str(error)))
            return None
        file = nodeid.partition("::")[0]
        why = self._other.errors.get(file)
        if why:
            attempt.rows.append(attempt.write.not_compared(why))
        else:
            attempt.rows.append(attempt.write.row(WHOLE_TEST, Outcome.NEW, Verdict.PASS, reason="new test"))
        return None

    def _compare_arms(self, attempt: Attempt, here: Stop, other: Stop | None) -> tuple[Stop | None, Stop | None]:
        """Compare, and let both go on; returns where they stop next."""
        stopped: dict[str, Stop | None] = {}
        if other is not None and other.arms:
            session = gate_session(self._config)
            alpha = session.error_budget.grant()
            arms = Arms(
                (self._here, self._other),
                (here, other),
                rules_of(self._config.stash[PLUGIN_CONFIG]),
                self._expected,
                self._wants_same_answers(attempt.item),
                self._rng,
                attempt.write,
            )
            show = terminal_progress(self._config) or (lambda text: None)
            try:
                rows = arms.compare(alpha, session.control_problem(), show)
            except ArmRaisedError as error:
                side = self._here if error.side == self._here.name else self._other
                attempt.rows.append(attempt.write.not_compared(f"{side.name}: {error}"))
                stopped[side.name] = self._go_on(attempt, side, side.wait)
            except SideLostError as error:
                is_here = error.side == self._here.name
                attempt.rows.append(attempt.write.not_compared(f"{error.side}: {error}"))
                attempt.lost = str(error) if is_here else ""
                stopped[error.side] = None
            else:
                attempt.rows += rows
                self._findings.add(seen=[row.metric for row in rows])
        elif other is not None:
            attempt.rows += [attempt.write.missing(arm, Outcome.NEW) for arm in here.arms]
        next_here = stopped[self._here.name] if self._here.name in stopped else self._go_on(attempt, self._here)
        if other is None or not other.arms:
            return next_here, other
        name = self._other.name
        return next_here, stopped[name] if name in stopped else self._go_on(attempt, self._other)

    def _go_on(self, attempt: Attempt, side: Side, ask: Callable[[], Stop] | None = None) -> Stop | None:
        """Where the test stops next on ``side``, which is released, or asked by ``ask``; None when it is lost."""
        try:
            return (ask or side.release)()
        except SideLostError as error:
            if side is self._here:
                attempt.lost = str(error)
            else:
                attempt.rows.append(attempt.write.not_compared(str(error)))
            return None

    def _wants_same_answers(self, item: pytest.Item) -> bool:
        marked = next(item.iter_markers(SAME_ANSWERS_MARKER), None) is not None
        return marked or self._config.stash[PLUGIN_CONFIG].same_answers

    def _unless_untouched(self, rows: list[Row], here: Stop, other: Stop) -> list[Row]:
        """``rows``; a change becomes unproven where no file that the test has loaded differs between the sides."""
        if self._differing is None or self._differing & {*here.imported, *other.imported}:
            return rows
        if any(not name.endswith((".py", ".md", ".rst")) for name in self._differing):
            return rows
        return [unless_moved(row) if row.num_pairs is not None else row for row in rows]
