"""The study of crashes: its faults are drawn from a seed, and it sees what it looks for."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.crash_study.mutations import as_json, damage, harm
from bench.crash_study.outages import window_ratios
from bench.crash_study.parsers import PARSERS
from bench.crash_study.runs import CASES, NUM_STEPS, RUN, Case, events, history, home_of
from bench.crash_study.soak import disk_mib, num_steps
from bench.crash_test import _STUDIES, LONG, PARTS, SHORT, Size, main

LAGGING = next(case for case in CASES if case.lag)


def leave(folder: Path, *segments: list[tuple[int, float]], torn: bool = False) -> Path:
    """The events of a run that was resumed between ``segments`` of (step, loss)."""
    path = home_of(folder).events / f"{RUN}.jsonl"
    path.parent.mkdir(parents=True)
    lines = []
    for segment in segments:
        lines.append(json.dumps({"kind": "run_started"}))
        lines += [json.dumps({"kind": "train_step", "step": step, "loss": loss}) for step, loss in segment]
    path.write_text("\n".join(lines) + ('\n{"kind": "tra' if torn else "\n"))
    return folder


def test_a_long_soak_counts_the_steps_of_a_full_file_and_no_file_of_events_as_growth(tmp_path: Path) -> None:
    folder = leave(tmp_path, [(71_601, 0.1), (71_602, 0.2)])
    full = home_of(folder).events / f"{RUN}.jsonl.1"
    full.write_bytes(b"x" * 2**20)
    (home_of(folder).events / "weights").write_bytes(b"x" * 2**20)

    assert num_steps(folder) == 71_602
    assert disk_mib(folder) == 1.0


def test_the_history_that_remains_is_that_of_the_last_attempts(tmp_path: Path) -> None:
    folder = leave(tmp_path, [(1, 0.1), (2, 0.2), (3, 0.3)], [(3, 0.3), (4, 0.4)], torn=True)

    assert history(CASES[0], folder) == {1: 0.1, 2: 0.2, 3: 0.3, 4: 0.4}
    assert len(events(folder)) == 7


@pytest.mark.parametrize(
    ("segments", "problem"),
    [
        ([[(1, 0.1), (2, 0.2)], [(2, 0.9)]], "step 2 came out in another way"),
        ([[(1, 0.1), (2, 0.2), (2, 0.2)]], "step 2 is in the history twice"),
    ],
)
def test_a_history_that_is_wrong_is_seen(segments: list[Any], problem: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=problem):
        history(LAGGING, leave(tmp_path, *segments))


def test_a_run_with_lag_may_start_again_in_another_way(tmp_path: Path) -> None:
    folder = leave(tmp_path, [(1, 0.1)], [(1, 0.9), (2, 0.2)])

    assert history(LAGGING, folder) == {1: 0.9, 2: 0.2}
    with pytest.raises(AssertionError, match="step 1 came out in another way"):
        history(CASES[0], folder)


def test_a_case_is_a_command_line(tmp_path: Path) -> None:
    arguments = Case("x", lag=2, method="full", refill=3).arguments(tmp_path)

    assert arguments[arguments.index("--policy-lag") + 1] == "2"
    assert {"--set=training.method=full", "--set=rollout.max_refill_rounds=3"} <= set(arguments)
    assert not any("lora" in word for word in arguments)
    assert NUM_STEPS > 3


def test_damage_and_harm_are_drawn_from_the_seed() -> None:
    value = {"a": [1, 2, {"b": "c"}], "d": None}
    drawn = [
        (damage(random.Random(seed), b"0123456789" * 9), as_json(harm(random.Random(seed), value)))
        for seed in range(50)
    ]
    again = [
        (damage(random.Random(seed), b"0123456789" * 9), as_json(harm(random.Random(seed), value)))
        for seed in range(50)
    ]

    assert drawn == again
    assert len(set(drawn)) > 45
    assert value == {"a": [1, 2, {"b": "c"}], "d": None}


def test_the_names_of_parsers_are_their_own() -> None:
    assert len({parser.name for parser in PARSERS}) == len(PARSERS)
    assert LONG.num_inputs >= 10_000
    assert LONG.num_kills >= 200
    assert SHORT.num_kills >= len(CASES)


def test_a_window_with_a_fault_is_compared_with_those_around_it() -> None:
    """Another program makes the machine half as fast from second 20 on, which is no outage's doing."""
    windows = [(0.0, None), (10.0, "away"), (20.0, None), (30.0, "slow"), (40.0, None), (50.0, "500")]
    machine = (1.0, 1.0, 2.0, 2.0, 2.0, 2.0)
    steps = [
        (since + at, slower * (1.1 if fault else 1.0))
        for (since, fault), slower in zip(windows, machine, strict=True)
        for at in (0.0, 4.0, 9.9)
    ]
    assert window_ratios(windows, steps) == pytest.approx([1.1 / 1.5, 1.1, 1.1])
    assert window_ratios(windows[:3], [step for step in steps if step[0] < 20]) == pytest.approx([1.1])
    assert window_ratios(windows, []) == []


@pytest.mark.slow
def test_bad_inputs_are_studied_and_tables_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The short form of the part that computes nothing."""
    files = ["--markdown", str(tmp_path / "crash.md"), "--json", str(tmp_path / "crash.json")]
    assert main(["--short", "--parts", "inputs", *files]) == 0

    assert "| input | inputs | refused |" in (tmp_path / "crash.md").read_text()
    assert [row["input"] for row in json.loads((tmp_path / "crash.json").read_text())["inputs"]] == [
        parser.name for parser in PARSERS
    ]


def test_the_size_of_a_part_can_be_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Size] = []

    def study(size: Size, *_: object) -> list[dict[str, Any]]:
        asked.append(size)
        return [{"soak": "none"}]

    monkeypatch.setitem(_STUDIES, "soak", study)
    monkeypatch.setattr("bench.crash_test.import_all", lambda: None)
    monkeypatch.setattr("bench.crash_test.wait", lambda _: 0)
    monkeypatch.setattr("bench.crash_test.start", lambda *_: 0)
    assert main(["--short", "--parts", "soak", "--soak-s", "7", "--kills", "3"]) == 0

    assert asked == [replace(SHORT, soak_s=7, num_kills=3)]


def test_a_part_that_is_none_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--parts", "chess"])
    (line,) = capsys.readouterr().err.splitlines()
    assert all(part in line for part in PARTS)
