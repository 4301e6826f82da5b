from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_grpo.drift.changes import MIN_RUNS, Outcome, find_changes, judged
from pytest_grpo.drift.series import read_history
from pytest_grpo.types import Row
from tests.pytest_grpo.drift.stored_runs import Store, noisy, row

SLOWER = noisy([0.1] * 12 + [0.11] * 12)


def test_a_loss_of_both_arms_shows_over_the_reference_with_its_commits(make_runs: Store) -> None:
    slower = noisy([1.0] * 12 + [1.1] * 12, 0.005)
    runs = make_runs(slower, make_rows=lambda factor: [row(0.1 * factor, plain_s=0.4 * factor)])
    changes = find_changes(read_history(runs).series, 0.01)
    assert [change.gate.metric for change in changes] == [
        "step_speedup:step/reference",
        "step_speedup:plain/reference",
    ]
    change = changes[0]
    assert change.outcome is Outcome.LOSS
    assert change.before == pytest.approx(1.0, rel=0.01)
    assert change.after == pytest.approx(1.1, rel=0.01)
    assert change.fraction == pytest.approx(0.1, abs=0.02)
    assert change.p_value <= 0.01
    assert (change.last_before.name, change.first_after.name) == ("run11", "run12")
    assert change.bisect == "grpo bisect 111111111111 121212121212 --phase 3 --slower step.seconds --by 5%"
    assert change.notes == []


def test_the_side_that_is_worse_is_that_of_the_gate(make_runs: Store) -> None:
    ratios = ("at_least", "at_most", "within")
    rows = {kind: replace(row(0.1, kind), kind=kind, arms=None) for kind in ratios}

    def make_rows(ratio: float) -> list[Row]:
        return [replace(each, ratios=[ratio] * 8) for each in rows.values()]

    changes = find_changes(read_history(make_runs(SLOWER, make_rows=make_rows)).series, 0.01)
    found = {change.gate.metric: change.outcome for change in changes}
    assert found == {"at_least": Outcome.GAIN, "at_most": Outcome.LOSS, "within": Outcome.CHANGE}


def test_a_loss_that_was_mended_is_a_loss_and_a_gain(make_runs: Store) -> None:
    runs = make_runs(noisy([0.1] * 12 + [0.12] * 12 + [0.1] * 12))
    changes = find_changes(read_history(runs).series, 0.01)
    mine = [change for change in changes if change.gate.metric == "step_speedup:step/reference"]
    assert [change.outcome for change in mine] == [Outcome.LOSS, Outcome.GAIN]
    assert [change.first_after.name for change in mine] == ["run12", "run24"]


def test_machines_are_never_mixed(make_runs: Store) -> None:
    fast, slow = make_runs(noisy([0.1] * 12)), make_runs(noisy([0.2] * 12, seed=1), prefix="slow", cpu="Abacus 8")
    history = read_history([*fast, *slow])
    assert {each.machine for each in history.series} == {
        "Abacus 9, 2 cores, Linux, x86_64",
        "Abacus 8, 2 cores, Linux, x86_64",
    }
    assert find_changes(history.series, 0.01) == []


def test_other_software_stays_in_the_series_and_is_named(make_runs: Store) -> None:
    before = make_runs(SLOWER, torch="2.12.0")[:12]
    after = make_runs(SLOWER, torch="2.13.0")[12:]
    changes = find_changes(read_history([*before, *after]).series, 0.01)
    assert [change.notes for change in changes] == [["software differs: torch: 2.12.0 / 2.13.0"]] * 2


@pytest.mark.parametrize(
    ("commit", "note"),
    [
        ("0123456789abcdef", "commit 0123456789ab was measured before and after: its code is not the cause"),
        ("", "no commit is known: these runs were stored outside of a git repository"),
    ],
)
def test_without_a_range_of_commits_there_is_nothing_to_bisect(make_runs: Store, commit: str, note: str) -> None:
    changes = find_changes(read_history(make_runs(SLOWER, commits=[commit] * 24)).series, 0.01)
    assert {change.bisect for change in changes} == {""}
    assert {tuple(change.notes) for change in changes} == {(note,)}


def test_runs_that_say_nothing_of_their_commit_or_machine_are_left_out(make_runs: Store) -> None:
    runs = make_runs(noisy([0.1] * 12))
    dirty = make_runs([0.3] * 6, prefix="dirty", dirty=True)
    noisy_rows = make_runs([0.3] * 6, prefix="noisy", make_rows=lambda step_s: [untrusted(step_s)])
    history = read_history([*runs, *dirty, *noisy_rows])
    assert history.num_dirty_runs == 6
    assert {len(each.values) for each in history.series} == {12}
    assert find_changes(history.series, 0.01) == []


def untrusted(step_s: float) -> Row:
    return replace(
        row(step_s), conditions={"problem": "this machine is too noisy for timings (A/A control)"}, arms=None
    )


def test_plain_numbers_and_constant_or_short_series_are_not_judged(make_runs: Store) -> None:
    number = replace(row(0.1, "latency_s"), ratios=None, arms=None, measured=1.0)
    runs = make_runs([0.1] * 20, make_rows=lambda step_s: [row(step_s), number])
    assert "latency_s" not in {each.gate.metric for each in read_history(runs).series}
    assert judged(read_history(runs).series) == []
    varying = make_runs(noisy([0.1] * MIN_RUNS))
    assert judged(read_history(varying[1:]).series) == []
    assert len(judged(read_history(varying).series)) == 2, "plain/reference is constant"


def test_more_series_share_the_error_budget(make_runs: Store) -> None:
    seconds = noisy([0.1] * 6 + [0.105] * 6, 0.02)
    alone = read_history(make_runs(seconds, make_rows=lambda step_s: [replace(row(step_s), arms=None)])).series
    gate, quiet = alone[0].gate, tuple(noisy([1.0] * 12, seed=9))
    others = [replace(alone[0], gate=replace(gate, metric=f"other{each}"), values=quiet) for each in range(9)]
    (change,) = find_changes(alone, 0.05)
    (among_others,) = find_changes([*alone, *others], 0.5)
    assert 0.005 < change.p_value <= 0.05
    assert among_others.p_value == pytest.approx(10 * change.p_value)
    assert find_changes([*alone, *others], 0.05) == []
