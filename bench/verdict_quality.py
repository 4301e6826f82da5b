"""Error rates and power of the verdicts, on simulated noise.

Two arms are timed in the plugin's order and judged with its plan and its error budget; the true ratio is known.
``python bench/verdict_quality.py --json rates.json`` prints Markdown tables and takes about three minutes.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np

from bench.reporting.options import OneLineParser, add_json, natural, positive
from bench.verdict_study.noises import NOISES
from bench.verdict_study.quality import Quality, check_decide, study, worst_rates
from bench.verdict_study.rivals import study_rules, table_of_rules
from bench.verdict_study.run_tables import HEADER, RunRates, study_all_runs, worst_run_rates
from bench.verdict_study.timings import simulate
from grpo_core.home import write_json
from pytest_grpo.measuring.statistics.sign_test import Plan
from pytest_grpo.types import Verdict

MIN_TRIALS, SUITES_PER_TRIAL = 10, 40
"""The rules of others are studied gate by gate, which takes longer."""


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


def print_run_table(found: dict[tuple[str, str], RunRates]) -> None:
    print("\nArms whose speed depends on what ran before, judged gate by gate\n")
    _print_row(*HEADER, is_header=True)
    for (noise, rule), rates in found.items():
        _print_row(noise, rule, *rates.cells())


def _print_row(*cells: object, is_header: bool = False) -> None:
    print("|", " | ".join(map(str, cells)), "|")
    if is_header:
        print("|---" * len(cells) + "|")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = OneLineParser(description="Simulate how often the verdicts are wrong.")
    parser.add_argument("--suites", type=positive, default=20_000, help="simulated suites per noise (default 20000)")
    parser.add_argument("--gates", type=positive, default=9, help="timing gates per suite (default 9)")
    parser.add_argument("--seed", type=natural, default=0, help="seed of the simulation (default 0)")
    parser.add_argument(
        "--run-suites", type=positive, default=500, help="suites simulated run by run, per noise and rule (default 500)"
    )
    add_json(parser)
    options = parser.parse_args(arguments)
    qualities: dict[str, Quality] = {}
    for place, (name, noise) in enumerate(NOISES.items()):
        rng = np.random.default_rng([options.seed, place])
        timings = simulate(noise, rng, options.suites, options.gates, Plan().looks[-1])
        check_decide(timings)
        qualities[name] = study(timings, rng)
    print_tables(qualities, options.gates)
    found = study_all_runs(options.run_suites, options.gates, options.seed)
    print_run_table(found)
    rates = worst_rates(qualities) | worst_run_rates(found)
    print("\nOn the worst noise\n")
    _print_row("rate", "share", "95 % interval", "n", is_header=True)
    for key, rate in rates.items():
        shown = rate.as_json()
        _print_row(f"`{key}`", rate, f"{shown['low']:.4f} to {shown['high']:.4f}", rate.num_trials)
    print("\nRules of others on the same series: false red / false green and found at 20 % slower\n")
    num_trials = max(MIN_TRIALS, options.suites // SUITES_PER_TRIAL)
    print(*table_of_rules(study_rules(np.random.default_rng(options.seed), num_trials)), sep="\n")
    if options.json is not None:
        write_json(options.json, {key: rate.as_json() for key, rate in rates.items()})
    return 0


if __name__ == "__main__":
    sys.exit(main())
