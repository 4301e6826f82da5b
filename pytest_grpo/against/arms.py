"""The arms of one comparison on both sides: measured, held against each other, and written as rows."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from pytest_grpo.against.expecting import Expected
from pytest_grpo.against.judging import Change, is_bytes, judge_count, judge_one
from pytest_grpo.against.pairs import ArmPairs, Rules, Watched, common_quantities, counts_of, take_pairs, watch
from pytest_grpo.against.protocol import NO_ANSWER
from pytest_grpo.against.rows import RowWriter
from pytest_grpo.against.side import Side, Stop
from pytest_grpo.measuring.growth import describe_growth
from pytest_grpo.measuring.machine.conditions import Watch
from pytest_grpo.types import PEAK_BYTES, REFERENCE_ARM, Conditions, Outcome, Row, Sample, Verdict

_VERDICTS = {Outcome.SLOWER: Verdict.FAIL, Outcome.INCONCLUSIVE: Verdict.INCONCLUSIVE}
"""Of outcomes that do not pass."""


@dataclass(slots=True)
class Arms:
    """The arms of ``stops``, one per side."""

    sides: tuple[Side, Side]
    stops: tuple[Stop, Stop]
    rules: Rules
    expected: Mapping[str, Expected]
    same_answers: bool
    rng: random.Random
    write: RowWriter

    def compare(self, alpha: float, control_problem: str, show: Callable[[str], None]) -> list[Row]:
        """The rows of all arms. ``alpha`` of the error budget is spent at most.

        Raises:
            SideLostError, ArmRaisedError: a side could not go on.
        """
        here, other = self.stops
        common = [arm for arm in here.arms if arm in other.arms]
        if here.max_cores_of_others is not None:
            self.rules = replace(self.rules, max_cores_of_others=here.max_cores_of_others)
        rows = [self.write.missing(arm, Outcome.NEW) for arm in here.arms if arm not in other.arms]
        rows += [self.write.missing(arm, Outcome.GONE) for arm in other.arms if arm not in here.arms]
        first = {arm: self._first_runs(arm) for arm in common}
        if here.is_new:
            rows += [row for arm in common if arm != REFERENCE_ARM for row in self._answers(arm)]
            rows += [row for arm in common for row in self._counts(arm, first[arm])]
        if not here.wanted:
            return rows
        names = (self.sides[0].name, self.sides[1].name)
        wanted = list(dict.fromkeys([*here.wanted, *other.wanted]))
        pairs = [
            ArmPairs(arm, self.sides, self.rules, first[arm], watched, self.rng)
            for arm in common
            if (watched := self._watch(arm, common_quantities(first[arm], wanted), names, alpha / len(common)))
        ]
        watch_machine = Watch.start()
        if not control_problem:
            take_pairs(pairs, self.rng, show)
        conditions = watch_machine.conditions(with_gpu=self.rules.with_gpu, problem=control_problem)
        moved = control_problem or _moved(pairs)
        for each in pairs:
            rows += [self._row(each, watched, moved or each.problem, conditions) for watched in each.watched]
        return [row for row in rows if not self._goes_without_saying(row)]

    def _goes_without_saying(self, row: Row) -> bool:
        """Peak memory is measured unasked, so it is a row only when it changed or somebody asks."""
        is_asked = row.metric in self.expected or row.quantity != PEAK_BYTES
        return row.outcome == Outcome.SAME and not is_asked

    def _first_runs(self, arm: str) -> tuple[Sample, Sample]:
        here, other = self.sides
        return here.measure(arm, 1), other.measure(arm, 1)

    def _watch(self, arm: str, quantities: Sequence[str], names: tuple[str, str], alpha: float) -> list[Watched]:
        watched = watch(quantities, names, self.rules, alpha)
        for each in watched:
            each.expected = self.expected.get(f"{arm}.{each.quantity}")
        return watched

    def _answers(self, arm: str) -> list[Row]:
        """A row when the answers differ, or cannot be compared."""
        here, other = self.sides
        _, missing_here = here.answer(arm)
        theirs, missing_there = other.answer(arm)
        if missing_here == missing_there == NO_ANSWER:
            return []
        if missing_here or missing_there:
            where, why = (here.name, missing_here) if missing_here else (other.name, missing_there)
            return [self._no_answer(arm, f"{where}: {why}")]
        text, rule, missing = here.difference(arm, theirs, other.name)
        if missing:
            return [self._no_answer(arm, missing)]
        if not text:
            return []
        verdict = Verdict.FAIL if self.same_answers else Verdict.PASS
        return [self.write.row(f"{arm}.answers", Outcome.DIFFERS, verdict, reason=f"answers differ: {text} ({rule})")]

    def _no_answer(self, arm: str, why: str) -> Row:
        verdict = Verdict.INCONCLUSIVE if self.same_answers else Verdict.PASS
        reason = f"answers cannot be compared: {why}"
        return self.write.row(f"{arm}.answers", Outcome.NOT_COMPARED, verdict, reason=reason)

    def _counts(self, arm: str, first: tuple[Sample, Sample]) -> list[Row]:
        rows = []
        for name, (here, other) in counts_of(first).items():
            metric, outcome = f"{arm}.{name}", judge_count(here, other)
            expected = self.expected.get(metric)
            ratio = here / other if other else math.inf if here else 1.0
            missed = expected is not None and not expected.low <= ratio <= expected.high
            if outcome is Outcome.SAME and expected is None:
                continue
            reason = f"{here:g} here, {other:g} in {self.sides[1].name}"
            if missed and expected is not None:
                reason += f"; expected {expected.text}"
            verdict = Verdict.FAIL if missed else Verdict.PASS
            rows.append(self.write.row(metric, outcome, verdict, measured=ratio, reason=reason, quantity=name))
        return rows

    def _row(self, pairs: ArmPairs, watched: Watched, problem: str, conditions: Conditions) -> Row:
        change, rounds, metric = watched.change, pairs.sampler.rounds, f"{pairs.arm}.{watched.quantity}"
        if change is None and is_bytes(watched.quantity):
            here, other = (sample.value(watched.quantity) for sample in pairs.first)
            change = judge_one(here, other, watched.quantity, self.rules.tolerance)
        if change is None:
            why = problem or _no_pair(pairs)
            return self.write.row(metric, Outcome.INCONCLUSIVE, Verdict.INCONCLUSIVE, reason=why)
        change = change if is_bytes(watched.quantity) and change.is_final else _checked(pairs, change, problem)
        verdict, reason = _VERDICTS.get(change.outcome, Verdict.PASS), change.reason
        if change.outcome is Outcome.SLOWER:
            reason = "; ".join(filter(None, [reason, describe_growth(rounds, pairs.names)]))
        if watched.expected is not None and not problem and watched.proof is not Verdict.PASS:
            verdict = Verdict.FAIL
            reason = f"expected {watched.expected.text}: not proven" + (f"; {reason}" if reason else "")
        return self.write.row(
            metric,
            change.outcome,
            verdict,
            reason=reason,
            measured=change.estimate.median,
            estimate=change.estimate,
            quantity=watched.quantity,
            ratios=watched.question.ratios(rounds),
            arms={name: _values([taken[name] for taken in rounds]) for name in pairs.names},
            conditions=conditions,
            duration_s=round(pairs.sampler.spent_s, 3),
        )


def _values(samples: Sequence[Sample]) -> dict[str, list[float]]:
    names = ("seconds", *samples[0].quantities) if samples else ()
    return {name: [float(sample.value(name)) for sample in samples] for name in names}


def _moved(pairs: Sequence[ArmPairs]) -> str:
    """Why the other arms prove nothing: the reference, which no version changes, was faster or slower."""
    for each in pairs:
        for watched in each.watched if each.arm == REFERENCE_ARM else ():
            change = watched.change
            if change is not None and change.outcome in (Outcome.FASTER, Outcome.SLOWER):
                ends = f"[{change.estimate.low:.3g}, {change.estimate.high:.3g}]"
                return f"unproven: the control arm {REFERENCE_ARM} moved, too: {change.estimate.median:.3g} {ends}"
    return ""


def _no_pair(pairs: ArmPairs) -> str:
    left_out = pairs.guard.left_out()
    return f"no pair was measured within {pairs.rules.budget_s:g} s" + (f": {left_out}" if left_out else "")


def _checked(pairs: ArmPairs, change: Change, problem: str) -> Change:
    """``change``, inconclusive where there is a ``problem``, and with a reason where it is inconclusive."""
    if problem and pairs.arm != REFERENCE_ARM and change.outcome is not Outcome.NOT_COMPARED:
        return Change(Outcome.INCONCLUSIVE, change.estimate, True, problem)
    if change.outcome is not Outcome.INCONCLUSIVE or change.reason:
        return change
    num_pairs, (low, high) = len(pairs.sampler.rounds), pairs.band
    reason = f"{num_pairs} pairs prove neither a change nor that it stays in [{low:.3g}, {high:.3g}]"
    if num_pairs < pairs.rules.looks[-1]:
        reason += f"; {pairs.sampler.budget_s:g} s held no more: give --grpo-budget"
    left_out = pairs.guard.left_out()
    return Change(change.outcome, change.estimate, True, f"{reason}; {left_out}" if left_out else reason)
