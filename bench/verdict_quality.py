"""How often the verdicts are wrong, and how often they see a real loss, on simulated noise.

Two arms are timed in the harness's order and judged with its plan and its ledger. In the simulation the truth is known.
``python bench/verdict_quality.py --json rates.json`` prints Markdown tables and takes about half a minute.
"""

from __future__ import annotations

import argparse
import functools
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binomtest

from bench.options import positive
from grpo_core.home import write_json
from pytest_grpo.stats import AlphaLedger, Plan, judge
from pytest_grpo.types import Verdict

Floats = NDArray[np.float64]
Noise = Callable[[np.random.Generator, tuple[int, int]], Floats]
"""Makes log factors on the samples' times [gates, samples], the samples in the order in which they are taken."""

JITTER = 0.04
BURST_FACTOR = 1.5
BURST_SHARE = 0.1
MAX_TREND = 0.10
EFFECTS = (0.05, 0.10, 0.20)
UNCHANGED = 0.05
"""How far the truth is from the threshold of "at most 5 % slower" when nothing changed."""
CODES = {Verdict.PASS: 1, Verdict.FAIL: -1, Verdict.INCONCLUSIVE: 0}
NUM_CHECKED = 200
SUITES_PER_CHUNK = 2_000


def independent(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    return JITTER * rng.standard_normal(shape)


def drift(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    return _autoregressive(JITTER * rng.standard_normal(shape))


def fast_drift(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Drift that changes from pair to pair. Mirrored pairs of pairs (ABBA) would be wrong together in it."""
    return _autoregressive(JITTER * rng.standard_normal(shape), memory=0.5)


def heavy_tails(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Student's t with 3 degrees of freedom: its standard deviation is 7 %, and now and then a sample is far out."""
    return JITTER * rng.standard_t(3, shape)


def bursts(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    return independent(rng, shape) + _slow_stretches(rng, shape)


def drifting_heavy_tails(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    return _autoregressive(heavy_tails(rng, shape)) + _trend(rng, shape)


def all_at_once(rng: np.random.Generator, shape: tuple[int, int], scale: float = 1.0) -> Floats:
    """The three jitters times ``scale``, slow stretches and a trend."""
    jitter = independent(rng, shape) + heavy_tails(rng, shape) + _autoregressive(heavy_tails(rng, shape))
    return scale * jitter + _slow_stretches(rng, shape) + _trend(rng, shape)


NOISES: dict[str, Noise] = {
    "independent, 4 %": independent,
    "drift, 4 %": drift,
    "fast drift, 4 %": fast_drift,
    "heavy tails, 4 %": heavy_tails,
    "bursts": bursts,
    "drifting heavy tails": drifting_heavy_tails,
    "all at once, 4 % together": functools.partial(all_at_once, scale=1 / math.sqrt(3)),
    "all at once, 4 % each": all_at_once,
}
BEYOND_DECLARED = "all at once, 4 % each"
"""The one noise of more than the declared 4 %. It counts for every rate but ``power_at_10_percent``."""


def _autoregressive(steps: Floats, memory: float = 0.9) -> Floats:
    """AR(1) with the spread of ``steps``."""
    values = np.array(steps)
    for place in range(1, values.shape[1]):
        values[:, place] = memory * values[:, place - 1] + math.sqrt(1 - memory**2) * steps[:, place]
    return values


def _slow_stretches(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Time in stretches of 5 to 10 samples, a tenth of them slow: another process has the cores."""
    num_gates, num_samples = shape
    lengths = rng.integers(5, 11, (num_gates, num_samples // 5 + 2))
    starts = np.cumsum(lengths, axis=1) - rng.integers(0, 5, (num_gates, 1))
    is_start = np.zeros((num_gates, num_samples + 1), dtype=np.int64)
    np.put_along_axis(is_start, np.minimum(starts, num_samples), 1, axis=1)
    stretch = np.cumsum(is_start[:, :num_samples], axis=1)
    is_slow = rng.random(lengths.shape) < BURST_SHARE
    return np.where(np.take_along_axis(is_slow, stretch, axis=1), math.log(BURST_FACTOR), 0.0)


def _trend(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Up to 10 % slower or faster from the first to the last sample."""
    return rng.uniform(-MAX_TREND, MAX_TREND, (shape[0], 1)) * np.linspace(0, 1, shape[1])


@dataclass(frozen=True, slots=True)
class Rate:
    """``num_hits`` of ``num_trials``."""

    num_hits: int
    num_trials: int

    @classmethod
    def of(cls, hits: ArrayLike) -> Rate:
        return cls(int(np.count_nonzero(hits)), np.size(hits))

    @property
    def share(self) -> float:
        return self.num_hits / self.num_trials

    def as_json(self) -> dict[str, object]:
        """With the exact 95 % interval of Clopper and Pearson."""
        ends = binomtest(self.num_hits, self.num_trials).proportion_ci(0.95, method="exact")
        return {"median": self.share, "low": ends.low, "high": ends.high, "n": self.num_trials, "unit": "share"}

    def __str__(self) -> str:
        return f"{100 * self.share:.{2 if self.share < 0.1 else 1}f} %"


@dataclass(frozen=True, slots=True)
class Timings:
    """Log ratios of suites whose two arms are equally fast."""

    pairs: Floats
    """Pair by pair, interleaved as the harness does [suites, gates, pairs]."""
    mean_of_blocks: Floats
    """All of one arm, then all of the other: their means [suites, gates]."""
    median_of_blocks: Floats


def simulate(noise: Noise, rng: np.random.Generator, num_suites: int, num_gates: int, num_pairs: int) -> Timings:
    chunks = []
    for start in range(0, num_suites, SUITES_PER_CHUNK):
        num_rows = min(SUITES_PER_CHUNK, num_suites - start) * num_gates
        samples = noise(rng, (num_rows, 2 * num_pairs))
        signs = order_signs(rng, num_rows, num_pairs)
        first, second = samples[:, :num_pairs], samples[:, num_pairs:]
        chunks.append(
            (
                (signs * (samples[:, 0::2] - samples[:, 1::2])).reshape(-1, num_gates, num_pairs),
                np.log(np.exp(first).mean(axis=1) / np.exp(second).mean(axis=1)).reshape(-1, num_gates),
                (np.median(first, axis=1) - np.median(second, axis=1)).reshape(-1, num_gates),
            )
        )
    return Timings(*(np.concatenate(parts) for parts in zip(*chunks, strict=True)))


def order_signs(rng: np.random.Generator, num_gates: int, num_pairs: int) -> Floats:
    """1 where the pair's first sample is of the first arm, -1 where it is of the second [gates, pairs].

    As ``pytest_grpo.measure.Sampler`` orders them: each pair at random.
    """
    return rng.choice([-1.0, 1.0], size=(num_gates, num_pairs))


def decide(logs: Floats, plan: Plan) -> tuple[NDArray[np.int8], NDArray[np.int64]]:
    """What ``judge`` says of many gates with ``at_least`` 1: 1 pass, -1 fail, 0 inconclusive, and the pairs it used.

    ``logs`` are log ratios [..., pairs]. At each look it counts the pairs at or above 1, as the ranks ask.
    """
    looks = np.array(plan.looks)
    pass_ranks, fail_ranks = np.array([plan.ranks(look) for look in plan.looks]).T
    num_above = np.cumsum(logs >= 0, axis=-1)[..., looks - 1]
    is_pass, is_fail = looks - num_above < pass_ranks, num_above < fail_ranks
    is_decided = is_pass | is_fail
    is_decided[..., -1] = True
    at = np.argmax(is_decided, axis=-1)
    codes = is_pass.astype(np.int8) - is_fail.astype(np.int8)
    return np.take_along_axis(codes, at[..., None], axis=-1)[..., 0], looks[at]


def judge_one(logs: Floats, plan: Plan) -> tuple[int, int]:
    """``decide`` for one gate, by the harness's own ``judge``."""
    for look in plan.looks:
        verdict, _ = judge(np.exp(logs[:look]).tolist(), 1.0, math.inf, plan)
        if verdict is not Verdict.INCONCLUSIVE:
            return CODES[verdict], look
    return CODES[Verdict.INCONCLUSIVE], plan.looks[-1]


def suite_failures(pairs: Floats, shifts: Floats) -> NDArray[np.bool_]:
    """Which gates fail when each suite is judged gate by gate, its shares of alpha from its own ledger.

    ``pairs`` [suites, gates, pairs]; ``shifts`` [suites, gates] are the logs of truth over threshold.
    """
    num_suites, num_gates = shifts.shape
    ledgers = [AlphaLedger(num_gates) for _ in range(num_suites)]
    failed = np.zeros(shifts.shape, dtype=np.bool_)
    for gate in range(num_gates):
        shares = np.array([ledger.grant() for ledger in ledgers])
        for share in np.unique(shares):
            rows = np.flatnonzero(shares == share)
            codes, _ = decide(pairs[rows, gate] + shifts[rows, gate, None], Plan(fail_alpha=float(share)))
            failed[rows, gate] = codes == CODES[Verdict.FAIL]
        for suite in np.flatnonzero(failed[:, gate]):
            ledgers[suite].give_back(shares[suite])
    return failed


@dataclass(frozen=True, slots=True)
class Quality:
    """What one noise does to the verdicts."""

    typical_difference: float
    """Half of the pairs of equal arms differ by more."""
    false_fails: dict[str, Rate]
    """Suites with any false failure, by what is true of their gates."""
    wrong_verdicts: Rate
    """Gates on their threshold that get a verdict."""
    power: dict[tuple[Verdict, float], list[Rate]]
    """Gates with the right verdict after each look, by that verdict and the truth's distance from the threshold."""
    mean_pairs: dict[tuple[Verdict, float], float]
    alarms: dict[str, Rate]
    """Gates that fail although nothing changed, by the way of comparing."""


def study(timings: Timings, rng: np.random.Generator) -> Quality:
    pairs = timings.pairs
    num_suites, num_gates, _ = pairs.shape
    ledger = AlphaLedger(num_gates)
    plan = Plan(fail_alpha=min(ledger.grant() for _ in range(num_gates)))
    power, mean_pairs = {}, {}
    for verdict in (Verdict.PASS, Verdict.FAIL):
        for effect in EFFECTS:
            codes, used = decide(pairs + CODES[verdict] * math.log1p(effect), plan)
            is_right = codes == CODES[verdict]
            power[verdict, effect] = [Rate.of(is_right & (used <= look)) for look in plan.looks]
            mean_pairs[verdict, effect] = float(used.mean())
    on_threshold, unchanged = np.zeros((num_suites, num_gates)), math.log1p(UNCHANGED)
    is_loss = rng.random((num_suites, num_gates)) < 1 / 3
    with_losses = suite_failures(pairs, np.where(is_loss, -math.log1p(0.2), 0.0))
    return Quality(
        typical_difference=float(np.expm1(np.median(np.abs(pairs)))),
        false_fails={
            "on the threshold": Rate.of(suite_failures(pairs, on_threshold).any(axis=1)),
            "a third lost 20 %, others on it": Rate.of((with_losses & ~is_loss).any(axis=1)),
            "10 % better": Rate.of(suite_failures(pairs, on_threshold + math.log1p(0.1)).any(axis=1)),
        },
        wrong_verdicts=Rate.of(decide(pairs, plan)[0] != CODES[Verdict.INCONCLUSIVE]),
        power=power,
        mean_pairs=mean_pairs,
        alarms={
            "means of two blocks": Rate.of(timings.mean_of_blocks + unchanged < 0),
            "medians of two blocks": Rate.of(timings.median_of_blocks + unchanged < 0),
            "this plugin": Rate.of(suite_failures(pairs, on_threshold + unchanged)),
        },
    )


def check_decide(timings: Timings) -> None:
    """``decide`` counts where ``judge`` sorts; they must say the same."""
    plan = Plan(fail_alpha=AlphaLedger(timings.pairs.shape[1]).grant())
    some = timings.pairs.reshape(-1, timings.pairs.shape[-1])[:NUM_CHECKED]
    for effect in (-0.1, 0.0, 0.1):
        codes, used = decide(some + effect, plan)
        for logs, code, num_pairs in zip(some + effect, codes, used, strict=True):
            assert judge_one(logs, plan) == (code, num_pairs)


def decisive(quality: Quality, effect: float) -> Rate:
    """The power at ``effect`` with all pairs, on the side where it is smaller."""
    sides = [quality.power[verdict, effect][-1] for verdict in (Verdict.PASS, Verdict.FAIL)]
    return min(sides, key=lambda rate: rate.share)


def worst_rates(qualities: dict[str, Quality]) -> dict[str, Rate]:
    """The rates to publish: each is that of the noise where it is worst."""
    declared = [quality for name, quality in qualities.items() if name != BEYOND_DECLARED]
    rates = {
        "false_fail_rate": [rate for quality in qualities.values() for rate in quality.false_fails.values()],
        "wrong_verdict_rate_at_threshold": [quality.wrong_verdicts for quality in qualities.values()],
    }
    powers = {
        f"power_at_{100 * effect:.0f}_percent": [decisive(quality, effect) for quality in declared]
        for effect in EFFECTS
    }
    beyond = {"power_at_10_percent_beyond_declared_noise": decisive(qualities[BEYOND_DECLARED], 0.10)}
    worst = {key: max(some, key=lambda rate: rate.share) for key, some in rates.items()}
    return worst | {key: min(some, key=lambda rate: rate.share) for key, some in powers.items()} | beyond


def print_tables(qualities: dict[str, Quality], num_gates: int) -> None:
    first = next(iter(qualities.values()))
    print(f"\nSuites of {num_gates} gates with any false failure, by what is true of the gates\n")
    _print_row("noise", "pairs differ by", *first.false_fails, "any verdict of a gate on it", is_header=True)
    for name, quality in qualities.items():
        difference = f"{100 * quality.typical_difference:.1f} %"
        _print_row(name, difference, *quality.false_fails.values(), quality.wrong_verdicts)
    print("\nRight verdicts, by the truth beyond the threshold and the pairs taken at most\n")
    _print_row("noise", "truth", *Plan().looks, "mean pairs", is_header=True)
    for name, quality in qualities.items():
        for (verdict, effect), rates in quality.power.items():
            side = "better" if verdict is Verdict.PASS else "worse"
            shown = [f"{100 * rate.share:.1f} %" for rate in rates]
            _print_row(name, f"{100 * effect:.0f} % {side}", *shown, f"{quality.mean_pairs[verdict, effect]:.0f}")
    print("\nFalse alarms per gate when nothing changed and 5 % slower is allowed\n")
    _print_row("noise", *first.alarms, is_header=True)
    for name, quality in qualities.items():
        _print_row(name, *quality.alarms.values())


def _print_row(*cells: object, is_header: bool = False) -> None:
    print("|", " | ".join(map(str, cells)), "|")
    if is_header:
        print("|---" * len(cells) + "|")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Simulate how often the verdicts are wrong.")
    parser.add_argument("--suites", type=positive, default=20_000, help="simulated suites per noise")
    parser.add_argument("--gates", type=positive, default=9, help="timing gates per suite")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the rates to this file")
    options = parser.parse_args(arguments)
    if options.json is not None and not options.json.parent.is_dir():
        print(f"--json {options.json}: the folder {options.json.parent} does not exist; create it", file=sys.stderr)
        return 2
    qualities: dict[str, Quality] = {}
    for place, (name, noise) in enumerate(NOISES.items()):
        rng = np.random.default_rng([options.seed, place])
        timings = simulate(noise, rng, options.suites, options.gates, Plan().looks[-1])
        check_decide(timings)
        qualities[name] = study(timings, rng)
    print_tables(qualities, options.gates)
    rates = worst_rates(qualities)
    print("\nOn the worst noise\n")
    _print_row("rate", "share", "95 % interval", "n", is_header=True)
    for key, rate in rates.items():
        shown = rate.as_json()
        _print_row(f"`{key}`", rate, f"{shown['low']:.4f} to {shown['high']:.4f}", rate.num_trials)
    if options.json is not None:
        write_json(options.json, {key: rate.as_json() for key, rate in rates.items()})
    return 0


if __name__ == "__main__":
    sys.exit(main())
