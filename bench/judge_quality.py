"""How often ``grpo judge`` is wrong, and how often it finds what changed: on simulated runs.

``python bench/judge_quality.py --markdown judge.md`` writes the tables of docs/judge.md; it takes some minutes.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import product

from bench.judge_study.simulated import (
    DIFFERENCES,
    FACTORS,
    NUMS_OF_STEPS,
    QUIET,
    RUN_SPREADS,
    STALL_SPREADS,
    STALLS,
    TRUTHS,
    Alarms,
    study_alarms,
    study_difference,
    study_stalls,
    study_truth,
)
from bench.reporting.figures import table
from bench.reporting.options import OneLineParser, add_json, add_markdown, natural, positive
from bench.verdict_study.rate import Rate
from grpo_core.home import write_json

Results = dict[tuple, object]


def study_all(options: argparse.Namespace) -> dict[str, Results]:
    cases = {
        "alarms": (study_alarms, list(product(NUMS_OF_STEPS, QUIET))),
        "power": (study_truth, list(product(NUMS_OF_STEPS, TRUTHS))),
        "stalls": (study_stalls, list(STALLS)),
        "differences": (study_difference, list(product(RUN_SPREADS, RUN_SPREADS, DIFFERENCES))),
    }
    return {name: _study(study, options, of_study) for name, (study, of_study) in cases.items()}


def _study(study: Callable, options: argparse.Namespace, cases: Sequence[tuple]) -> Results:
    if options.processes == 1:
        return {case: study(options, *case) for case in cases}
    with ProcessPoolExecutor(options.processes, multiprocessing.get_context("spawn")) as pool:
        started = {case: pool.submit(study, options, *case) for case in reversed(cases)}  # the longest first
        return {case: started[case].result() for case in cases}


def tables(found: dict[str, dict]) -> list[str]:
    """The Markdown of docs/judge.md."""
    alarms, power, stalls, differences = (found[name] for name in ("alarms", "power", "stalls", "differences"))
    steps = [f"{num_steps} steps" for num_steps in NUMS_OF_STEPS]

    def of_alarms(show: Callable[[Alarms], str]) -> list[str]:
        rows = [[kind.name, *(show(alarms[num_steps, kind]) for num_steps in NUMS_OF_STEPS)] for kind in QUIET]
        return table(["noise", *steps], rows)

    return [
        "Quiet runs with a false change in one of four quantities",
        "",
        *of_alarms(lambda alarm: alarm.changes.with_interval),
        "",
        "Quantities without an interval, because their steps are too alike",
        "",
        *of_alarms(lambda alarm: str(alarm.undecided)),
        "",
        "Quiet runs with a false stall",
        "",
        *of_alarms(lambda alarm: alarm.stalls.with_interval),
        "",
        "Changes found in one of four quantities",
        "",
        *table(
            ["truth", *steps],
            [[truth.name, *(str(power[num_steps, truth]) for num_steps in NUMS_OF_STEPS)] for truth in TRUTHS],
        ),
        "",
        "Stalls found in a run of 200 steps",
        "",
        *table(
            ["the step takes", "steps spread by 5 %", "by 20 %"],
            [
                [f"{factor:g} times as long", *(str(stalls[factor, spread]) for spread in STALL_SPREADS)]
                for factor in FACTORS
            ],
        ),
        "",
        "Two runs of which one is called worse or better, by how much the code differs",
        "",
        *table(
            ["runs of one code spread by", "`--run-spread`", *(f"{100 * size:.0f} %" for size in DIFFERENCES)],
            [
                [f"{100 * true:.0f} %", f"{told:g}", *(str(differences[true, told, size]) for size in DIFFERENCES)]
                for true, told in product(RUN_SPREADS, RUN_SPREADS)
            ],
        ),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = OneLineParser(description="Simulate how often `grpo judge` is wrong.")
    add = parser.add_argument
    add("--quiet", type=positive, default=1000, help="runs without a change, per case (default 1000)")
    add("--changed", type=positive, default=200, help="runs with a change, per case (default 200)")
    add("--processes", type=positive, default=2, help="cases studied at a time (default 2)")
    add("--seed", type=natural, default=0, help="seed of the simulation (default 0)")
    add_json(parser)
    add_markdown(parser)
    options = parser.parse_args(arguments)
    found = study_all(options)
    lines = tables(found)
    print(*lines, sep="\n")
    if options.markdown is not None:
        options.markdown.write_text("\n".join(lines) + "\n", encoding="utf-8")
    if options.json is not None:
        write_json(options.json, _rates(found))
    return 0


def _rates(found: dict[str, dict]) -> dict[str, dict[str, object]]:
    rates: dict[str, Rate] = {}
    for (num_steps, kind), alarm in found["alarms"].items():
        where = f"{num_steps} steps, {kind.name}"
        rates |= {f"changes, {where}": alarm.changes, f"stalls, {where}": alarm.stalls}
        rates[f"undecided, {where}"] = alarm.undecided
    rates |= {f"power, {steps} steps, {truth.name}": rate for (steps, truth), rate in found["power"].items()}
    rates |= {f"stall of {factor:g}, spread {spread:g}": rate for (factor, spread), rate in found["stalls"].items()}
    rates |= {
        f"difference of {size:g}, runs spread {true:g}, told {told:g}": rate
        for (true, told, size), rate in found["differences"].items()
    }
    return {name: rate.as_json() for name, rate in rates.items()}


if __name__ == "__main__":
    sys.exit(main())
