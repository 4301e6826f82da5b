from __future__ import annotations

import random
import statistics
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_grpo.baseline.files import Baseline
from pytest_grpo.baseline.fingerprint import take_fingerprint
from pytest_grpo.baseline.regressions import Change, Outcome, compare_rows, is_baseline_decided, judge_against
from pytest_grpo.types import Kind, Row

NODEID = "bench/test_a.py::test_a"


def row(
    true_ratio: float,
    num_pairs: int = 12,
    *,
    kind: Kind = "at_least",
    metric: str = "speedup",
    seed: int = 1,
    noise: float = 0.01,
) -> Row:
    """A gate whose pairs scatter around ``true_ratio``. No pairs: a plain number."""
    chance = random.Random(f"{seed} {metric} {true_ratio}")
    ratios = [true_ratio * chance.lognormvariate(0, noise) for _ in range(num_pairs)]
    return Row(
        metric=metric,
        phase=2,
        kind=kind,
        bound_low=1.0,
        bound_high=None,
        threshold=">= 1",
        source="file",
        unit="",
        verdict="pass",
        reason="",
        measured=statistics.median(ratios) if ratios else true_ratio,
        device="cpu",
        num_pairs=num_pairs or None,
        ratios=ratios or None,
    )


def sessions_like(before: Row, num_sessions: int = 9, spread: float = 0.0) -> list[list[tuple[str, Row]]]:
    """Further sessions of the same code, whose true ratios differ by ``spread``."""
    chance = random.Random(f"sessions {before.metric} {before.measured}")
    size = before.num_pairs or 0
    truths = [before.measured * chance.lognormvariate(0, spread) for _ in range(num_sessions)]
    return [
        [(NODEID, row(truth, size, kind=before.kind, metric=before.metric, seed=100 + number))]
        for number, truth in enumerate(truths)
    ]


def only_change(now: Row, before: Row, tolerance: float = 0.05, num_others: int = 9) -> Change:
    others = sessions_like(before, num_others)
    (change,) = compare_rows([(NODEID, now)], [(NODEID, before)], tolerance, others)
    return change


@pytest.mark.parametrize(
    ("kind", "now", "outcome"),
    [
        ("at_least", 2.7, Outcome.REGRESSION),  # 10 % less speed-up
        ("at_least", 2.94, Outcome.NO_REGRESSION),  # 2 % less is tolerated
        ("at_least", 2.85, Outcome.UNDECIDED),  # on the edge
        ("at_least", 30.0, Outcome.NO_REGRESSION),  # a gain
        ("at_most", 3.3, Outcome.REGRESSION),
        ("at_most", 3.06, Outcome.NO_REGRESSION),
        ("at_most", 3.15, Outcome.UNDECIDED),
        ("at_most", 0.3, Outcome.NO_REGRESSION),
        ("within", 1.5, Outcome.SHOWN),
        ("within", 6.0, Outcome.SHOWN),
        ("equals", 6.0, Outcome.SHOWN),
    ],
)
def test_only_a_change_for_the_worse_is_a_loss(kind: Kind, now: float, outcome: Outcome) -> None:
    change = only_change(row(now, kind=kind), row(3.0, kind=kind))
    assert change.outcome == outcome
    assert change.factor == pytest.approx(now / 3.0, rel=0.02)
    assert change.factor is not None
    assert change.low is not None
    assert change.high is not None
    assert change.confidence is not None
    assert change.low < change.factor < change.high
    assert change.confidence >= 0.98


def test_the_tolerance_decides() -> None:
    now, before = row(2.7), row(3.0)
    assert [only_change(now, before, tolerance).outcome for tolerance in (0.0, 0.05, 0.2)] == [
        Outcome.REGRESSION,
        Outcome.REGRESSION,
        Outcome.NO_REGRESSION,
    ]


def test_a_loss_says_what_was_measured() -> None:
    text = only_change(row(2.7), row(3.0)).describe()
    assert text.startswith("speedup: regression: 3.0")
    assert "from 12/12 pairs; 5 % worse is tolerated; 10 stored sessions spread by 0." in text


@pytest.mark.parametrize(("num_pairs", "outcome"), [(3, Outcome.TOO_FEW), (5, Outcome.REGRESSION)])
def test_too_few_pairs_do_not_pass_silently(num_pairs: int, outcome: Outcome) -> None:
    assert only_change(row(1.0, num_pairs), row(3.0, num_pairs), num_others=0).outcome == outcome


def test_pairs_that_are_enough_alone_may_be_too_few_among_many_gates() -> None:
    names = [f"gate{number}" for number in range(10)]
    before = [(NODEID, row(3.0, 5, metric=name)) for name in names]
    now = [(NODEID, row(2.0 if name == "gate0" else 3.0, 5, metric=name, seed=2)) for name in names]
    assert compare_rows(now, before)[0].outcome == Outcome.TOO_FEW


def test_a_plain_number_is_only_shown() -> None:
    assert only_change(row(1.0, 0), row(3.0, 0)).outcome == Outcome.SHOWN
    assert only_change(row(1.0, 12), row(3.0, 0)).outcome == Outcome.SHOWN


def test_gates_of_only_one_side_are_listed_last_and_by_system() -> None:
    both, gone, new = (row(3.0, metric=name) for name in ("both", "gone", "new"))
    other = replace(both, system="trl")
    stored = [(NODEID, gone), (NODEID, both), (NODEID, other)]
    changes = compare_rows([(NODEID, both), (NODEID, new)], stored, others=sessions_like(both))
    assert [(change.row.metric, change.row.system, change.outcome.value) for change in changes] == [
        ("both", "", "no regression"),
        ("new", "", "only now"),
        ("gone", "", "only before"),
        ("both", "trl", "only before"),
    ]


def test_comparing_what_did_not_change_is_a_loss_in_one_of_hundred_cases_at_most() -> None:
    """A family of ten gates, each exactly at its tolerance: the worst that is no regression."""
    trials, false_alarms = 300, 0
    for trial in range(trials):
        before = [(NODEID, row(1.0, 10, metric=f"m{gate}", seed=trial, noise=0.05)) for gate in range(10)]
        now = [(NODEID, row(0.95, 12, metric=f"m{gate}", seed=-trial - 1, noise=0.05)) for gate in range(10)]
        false_alarms += any(change.outcome == Outcome.REGRESSION for change in compare_rows(now, before))
    assert false_alarms <= 8  # 3 expected at most; more than 8 has a chance of 0.4 %


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> Baseline:
    folder: Path = tmp_path_factory.mktemp("nothing")
    results = [(NODEID, row(3.0)), *((NODEID, row(2.0, metric=f"other{number}")) for number in range(9))]
    return Baseline("main", "2026-01-01T00:00:00+00:00", take_fingerprint(folder, {}), results)


def test_one_gate_is_judged_before_the_others_are_measured(baseline: Baseline) -> None:
    others = [replace(baseline, results=results) for results in sessions_like(row(3.0))]
    for now, outcome in ((2.6, Outcome.REGRESSION), (2.97, Outcome.NO_REGRESSION), (9.0, Outcome.NO_REGRESSION)):
        change = judge_against(row(now), NODEID, baseline, others=others)
        assert change is not None
        assert change.outcome == outcome


def test_one_gate_must_reach_its_share_of_the_familys_alpha(baseline: Baseline) -> None:
    """Three pairs against twelve reach 0.2 %: enough for one gate, too little for one of ten."""
    change = judge_against(row(1.0, 3), NODEID, baseline)
    assert change is not None
    assert change.outcome == Outcome.TOO_FEW
    alone = replace(baseline, results=baseline.results[:1])
    change = judge_against(row(1.0, 3), NODEID, alone)
    assert change is not None
    assert change.outcome == Outcome.REGRESSION


@pytest.mark.parametrize("num_stored", [1, *(pytest.param(num, marks=pytest.mark.slow) for num in (3, 5, 10))])
def test_sessions_that_spread_by_five_percent_are_no_loss(num_stored: int) -> None:
    """Nothing changed, and each session has luck of its own: at most one family of gates in a hundred is red."""
    chance = random.Random(num_stored)
    trials, false_alarms = 150, 0
    for trial in range(trials):
        stored, now = [], []
        for gate in range(9):
            rows = [
                row(chance.lognormvariate(0, 0.05), 20, metric=f"m{gate}", seed=trial * 100 + number, noise=0.04)
                for number in range(num_stored + 1)
            ]
            now.append((NODEID, rows[0]))
            stored.append([(NODEID, stored_row) for stored_row in rows[1:]])
        first, *others = [list(session) for session in zip(*stored, strict=True)]
        changes = compare_rows(now, first, others=others)
        false_alarms += any(change.outcome == Outcome.REGRESSION for change in changes)
    assert false_alarms <= 5  # 1.5 expected at most; more than 5 has a chance of 0.5 %


def test_what_one_session_cannot_tell_is_found_with_more() -> None:
    now, before = row(2.7), row(3.0)
    assert [only_change(now, before, num_others=number).outcome for number in (0, 3, 4, 9)] == [
        Outcome.UNDECIDED,
        Outcome.UNDECIDED,
        Outcome.REGRESSION,
        Outcome.REGRESSION,
    ]
    text = only_change(now, before, num_others=0).describe()
    assert "1 stored session does not show how far sessions spread: 5 % is assumed; store 4 more of that" in text


def test_more_pairs_are_taken_as_long_as_they_can_decide(baseline: Baseline) -> None:
    others = [replace(baseline, results=results) for results in sessions_like(row(3.0), spread=0.001)]

    def settled(now: Row, others: list[Baseline]) -> bool:
        return is_baseline_decided(judge_against(now, NODEID, baseline, others=others), baseline)

    assert settled(row(2.2, 8), others)  # a regression
    assert settled(row(2.99, 8), others)  # none
    assert not settled(row(2.85, 8, noise=0.04), others)
    assert settled(row(2.8, 8), [])  # of one stored session the spread is unknown: no number of pairs decides
    assert settled(row(1.0, metric="new"), others)


def test_pairs_that_cannot_be_trusted_are_no_loss(baseline: Baseline) -> None:
    noisy = replace(row(1.0), conditions={"problem": "this machine is too noisy for timings (A/A control): a story"})
    assert only_change(noisy, row(3.0)).outcome is Outcome.NOT_TRUSTED
    assert only_change(row(1.0), replace(noisy, measured=3.0)).outcome is Outcome.NOT_TRUSTED
    change = judge_against(noisy, NODEID, baseline)
    assert change is not None
    assert change.outcome is Outcome.NOT_TRUSTED
    assert is_baseline_decided(change, baseline)


def test_a_gate_that_the_baseline_does_not_have_is_not_judged(baseline: Baseline) -> None:
    assert judge_against(row(1.0, metric="new"), NODEID, baseline) is None
    assert judge_against(row(1.0), "bench/test_b.py::test_b", baseline) is None


def test_another_device_is_refused_unless_allowed(baseline: Baseline) -> None:
    elsewhere = replace(row(3.0), device="gpu H100")
    with pytest.raises(pytest.UsageError, match="baseline 'main': not comparable: device of speedup: cpu / gpu H100;"):
        judge_against(elsewhere, NODEID, baseline)
    assert judge_against(elsewhere, NODEID, baseline, any_machine=True) is not None


def with_reference(step_s: float, reference_s: float) -> Row:
    """A gate whose own ratio, between two arms, is 2 whatever ``step_s`` is."""
    noise = random.Random(7)
    arms = {"fast": step_s, "slow": 2 * step_s, "reference": reference_s}
    measured = {
        name: {"seconds": [seconds * noise.lognormvariate(0, 0.01) for _ in range(12)]}
        for name, seconds in arms.items()
    }
    return replace(row(2.0), arms=measured)


def against_ten_sessions(now: Row, before: Row) -> list[Change]:
    return compare_rows([(NODEID, now)], [(NODEID, before)], others=[[(NODEID, before)]] * 9)


def test_a_loss_of_all_arms_shows_against_the_reference() -> None:
    outcomes = {
        change.row.metric: change.outcome
        for change in against_ten_sessions(with_reference(1.2, 0.5), with_reference(1.0, 0.5))
    }
    assert outcomes == {
        "speedup": Outcome.NO_REGRESSION,
        "speedup:fast/reference": Outcome.REGRESSION,
        "speedup:slow/reference": Outcome.REGRESSION,
    }


def test_a_slower_machine_is_no_loss_against_the_reference() -> None:
    changes = against_ten_sessions(with_reference(2.0, 1.0), with_reference(1.0, 0.5))
    assert [change.outcome for change in changes] == [Outcome.NO_REGRESSION] * 3


def test_a_baseline_of_before_the_reference_still_compares() -> None:
    changes = against_ten_sessions(with_reference(1.0, 0.5), row(2.0))
    assert [change.outcome for change in changes] == [Outcome.NO_REGRESSION, Outcome.ONLY_NOW, Outcome.ONLY_NOW]


def test_gates_of_one_name_in_a_test_are_held_against_their_own_past() -> None:
    """A loop over batch sizes decides the same quantity several times; the ratios differ by far."""
    before = [(NODEID, row(truth, seed=seed)) for seed, truth in enumerate((8.0, 1.2))]
    now = [(NODEID, row(truth, seed=seed)) for seed, truth in ((8, 8.0), (9, 0.6))]
    changes = compare_rows(now, before, others=[before] * 9)
    assert [change.outcome for change in changes] == [Outcome.NO_REGRESSION, Outcome.REGRESSION]
    assert [change.before for change in changes] == [found for _, found in before]
