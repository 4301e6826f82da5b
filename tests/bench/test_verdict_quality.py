from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

import numpy as np
import pytest

from bench.verdict_quality import main
from bench.verdict_study import noises
from bench.verdict_study.decisions import decide, judge_one, suite_failures
from bench.verdict_study.quality import study
from bench.verdict_study.rate import Rate
from bench.verdict_study.run_noises import RUN_NOISES
from bench.verdict_study.timings import order_signs, simulate
from pytest_grpo.measuring.sampling.rounds import RoundSampler
from pytest_grpo.measuring.statistics.sign_test import Plan
from pytest_grpo.types import Verdict

REQUIRED_KEYS = {"false_fail_rate", "wrong_verdict_rate_at_threshold", "power_at_10_percent"}


def test_order_is_that_of_the_harness(monkeypatch: pytest.MonkeyPatch) -> None:
    num_pairs = 24
    monkeypatch.setattr("pytest_grpo.measuring.sampling.rounds.MIN_SAMPLE_S", 0.0)  # one run per sample
    runs: list[float] = []
    sampler = RoundSampler({"a": lambda: runs.append(1.0), "b": lambda: runs.append(-1.0)}, rng=random.Random(1))
    sampler.take_until(num_pairs)
    measured = runs[-2 * num_pairs :]
    simulated = order_signs(np.random.default_rng(0), 200, num_pairs)
    assert measured[1::2] == [-first for first in measured[0::2]]
    for signs in (np.array(measured[0::2]), *simulated[:2]):
        assert abs(signs.sum()) < num_pairs / 2
        assert abs((signs[0::2] * signs[1::2]).sum()) < num_pairs / 2  # neighbours neither mirror nor repeat each other


def test_counting_decides_as_the_harness_does() -> None:
    rng = np.random.default_rng(1)
    plans = [Plan(fail_alpha=0.001), Plan(looks=(3, 9, 20), pass_alpha=0.2, fail_alpha=0.1)]
    for plan, shift in itertools.product(plans, (-0.06, -0.02, 0.0, 0.02, 0.06)):
        logs = shift + 0.06 * rng.standard_normal((60, plan.looks[-1]))
        codes, used = decide(logs, plan)
        one_by_one = [judge_one(row, plan) for row in logs]
        assert one_by_one == list(zip(codes.tolist(), used.tolist(), strict=True))


def test_noises_are_what_their_names_say() -> None:
    rng, shape = np.random.default_rng(2), (4_000, 80)
    for name in ("independent", "drift", "fast_drift"):
        assert getattr(noises, name)(rng, shape).std() == pytest.approx(noises.JITTER, rel=0.02)
    for name, memory in (("independent", 0.0), ("drift", 0.9), ("fast_drift", 0.5)):
        values = getattr(noises, name)(rng, shape)
        neighbours = np.corrcoef(values[:, :-1].ravel(), values[:, 1:].ravel())[0, 1]
        assert neighbours == pytest.approx(memory, abs=0.02)
    heavy = np.abs(noises.heavy_tails(rng, shape))
    assert np.median(heavy) == pytest.approx(0.765 * noises.JITTER, rel=0.02)
    assert np.quantile(heavy, 0.999) > 8 * noises.JITTER


def test_bursts_last_five_to_ten_samples_a_tenth_of_the_time() -> None:
    slow = noises._slow_stretches(np.random.default_rng(3), (2_000, 80)) > 0
    assert slow.mean() == pytest.approx(0.1, abs=0.01)
    lengths = []
    for row in slow.tolist():
        runs = [(is_slow, len(list(run))) for is_slow, run in itertools.groupby(row)]
        lengths += [length for is_slow, length in runs[1:-1] if is_slow]  # the first and the last run are cut off
    assert min(lengths) == 5
    assert np.mean([length <= 10 for length in lengths]) > 0.8  # longer: two stretches in a row


def test_real_losses_give_their_share_back_and_sound_gates_pass() -> None:
    rng = np.random.default_rng(4)
    pairs = 0.04 * rng.standard_normal((300, 9, 40))
    is_loss = rng.random((300, 9)) < 0.5
    failed = suite_failures(pairs, np.where(is_loss, -0.2, 0.2))
    assert (failed == is_loss).all()


def test_blocks_raise_false_alarms_where_pairs_do_not() -> None:
    rng = np.random.default_rng(5)
    timings = simulate(noises.bursts, rng, 200, 9, Plan().looks[-1])
    found = study(timings, rng)
    assert found.alarms["means of two blocks"].share > 0.2
    assert found.alarms["this plugin"].num_hits == 0
    powers = found.power[Verdict.FAIL, 0.1]
    assert [rate.share for rate in powers] == sorted(rate.share for rate in powers)
    assert powers[-1].share > 0.99


def test_rates_come_with_the_exact_interval() -> None:
    none_of_20 = Rate(0, 20).as_json()
    assert (none_of_20["median"], none_of_20["low"], none_of_20["n"], none_of_20["unit"]) == (0, 0, 20, "share")
    assert none_of_20["high"] == pytest.approx(1 - 0.025 ** (1 / 20))


@pytest.mark.slow
def test_json_has_the_rates_and_repeats(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [tmp_path / name for name in ("one.json", "two.json")]
    for file in files:
        assert main(["--suites", "150", "--run-suites", "2", "--json", str(file)]) == 0
    rates = json.loads(files[0].read_text())
    assert rates.keys() >= REQUIRED_KEYS
    for rate in rates.values():
        assert 0 <= rate["low"] <= rate["median"] <= rate["high"] <= 1
    assert rates["power_at_10_percent"]["median"] > 0.95
    assert rates["false_fail_rate"]["n"] == 150
    assert files[0].read_bytes() == files[1].read_bytes()
    printed = capsys.readouterr().out
    assert all(f"| {name} |" in printed for name in (*noises.NOISES, *RUN_NOISES))


def test_a_missing_folder_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--json", str(tmp_path / "none" / "rates.json")])
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "none" in captured.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["--suites", "--gates", "--run-suites"])
@pytest.mark.parametrize("value", ["0", "1.5", "many"])
def test_numbers_start_at_one(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([option, value])
    assert "whole numbers from 1" in capsys.readouterr().err
