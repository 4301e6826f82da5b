"""Time to a reward, as a verdict: does a change reach the same reward in 0.9 times the time?

``python bench/time_to_reward.py --set training.updates_per_batch=2 --reward 0.8`` trains with and without the change,
one pair per seed, in random order, until the mean reward over ``--window`` steps reaches ``--reward``. The ratio of the
seconds decides, by the sequential sign test of the gates: after 8, 12, 18, 27 or 40 pairs. Both arms are what
``grpo train`` does without arguments, with what ``--base KEY=VALUE`` changes in both.

``--simulate SPREAD`` trains nothing and prints how often the verdict is wrong, for pairs whose log ratios have that
standard deviation.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.checks.learning import Goal, first_run
from bench.learning_arms.race import race
from bench.learning_arms.race_verdict import Pair, RaceVerdict, decide, rate_lines, spread_of
from bench.reporting import options as shared
from bench.reporting.figures import row, table_head
from bench.reporting.options import OneLineParser, natural, positive
from grpo_core.config.flags import put
from grpo_core.config.values import merged, parse_setting
from grpo_core.errors import ConfigError
from grpo_core.home import write_json
from pytest_grpo.measuring.statistics.sign_test import DEFAULT_LOOKS, Plan
from pytest_grpo.types import Verdict

TRUE_RATIOS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6)


def settings_of(options: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """The nested settings of both arms: the base, and the base with the change.

    Raises:
        ConfigError: one is no SECTION.KEY=VALUE, or nothing is changed.
    """
    if not options.set:
        raise ConfigError("--set: what is to be compared? give a setting, such as training.updates_per_batch=2")
    base = first_run()
    for text in options.base:
        put(base, *parse_setting("--base", text))
    change: dict[str, Any] = {}
    for text in options.set:
        put(change, *parse_setting("--set", text))
    return base, merged(base, change)


def run(options: argparse.Namespace) -> RaceVerdict:
    """Race pairs until the verdict.

    Raises:
        ConfigError: a setting is not allowed, or no arm reaches the reward.
    """
    import numpy as np
    import torch

    torch.set_num_threads(options.threads)
    base, changed = settings_of(options)
    goal = Goal(options.reward, options.window, options.max_steps)
    draw = np.random.default_rng(0)

    def race_in(settings: dict[str, Any], seed: int, limits: Goal) -> Any:
        with tempfile.TemporaryDirectory() as folder:
            return race(settings, seed, limits, Path(folder))

    for settings in (base, changed):
        race_in(settings, 0, Goal(float("inf"), 1, 2))  # what is compiled and built once is not in the seconds

    def run_pair(seed: int) -> Pair:
        arms = {"changed": changed, "base": base}
        order = sorted(arms, reverse=bool(draw.integers(2)))
        found = {name: race_in(arms[name], seed, goal) for name in order}
        pair = Pair(seed, **found)
        print(_pair_row(pair), flush=True)
        return pair

    print("\n".join(table_head("seed", "steps", "of base", "seconds", "of base", "ratio")), flush=True)
    try:
        return decide(run_pair, options.at_most, Plan(), range(options.seed, options.seed + options.pairs))
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _pair_row(pair: Pair) -> str:
    steps = [
        f"{one.num_steps}" if one.is_reached else f"more than {one.num_steps}" for one in (pair.changed, pair.base)
    ]
    seconds = [f"{one.seconds:.1f}" for one in (pair.changed, pair.base)]
    return row(pair.seed, *steps, *seconds, f"{pair.ratio('seconds'):.2f}")


def verdict_line(found: RaceVerdict, at_most: float) -> str:
    estimate = found.estimate
    return (
        f"{found.verdict.value}: the time to the reward is {estimate.median:.2f} [{estimate.low:.2f}, "
        f"{estimate.high:.2f}] of the base's, asked for at most {at_most:g}; {estimate.num_pairs} pairs, whose log "
        f"ratios spread by {spread_of(found.pairs, 'seconds'):.2f} in seconds and "
        f"{spread_of(found.pairs, 'num_steps'):.2f} in steps"
    )


def _parser() -> OneLineParser:
    parser = OneLineParser(description="Does a change reach the same reward in less time?")
    add = parser.add_argument
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="the change; as often as there are settings")
    add("--base", action="append", default=[], metavar="KEY=VALUE", help="a setting of both arms")
    add("--reward", type=float, default=0.9, help="mean reward to be reached (default 0.9)")
    add("--window", type=positive, default=10, help="steps that it is averaged over (default 10)")
    add("--max-steps", type=positive, default=200, help="a run gives up after these (default 200)")
    add("--at-most", type=float, default=0.9, help="the time over the base's that passes (default 0.9)")
    add("--pairs", type=positive, default=DEFAULT_LOOKS[-1], help="most pairs (default 40)")
    add("--seed", type=natural, default=0, help="seed of the first pair (default 0)")
    add("--simulate", type=float, metavar="SPREAD", help="print the error rates for pairs of this spread, and end")
    add("--runs", type=positive, default=4000, help="simulated comparisons per row (default 4000)")
    shared.add_threads(parser, default=1)
    shared.add_json(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0 for a pass, 1 otherwise; a mistake on the command line ends with 2."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if not 1 <= options.window <= options.max_steps:
        parser.error(f"--window {options.window}: allowed are 1 to --max-steps {options.max_steps}")
    if options.at_most <= 0:
        parser.error(f"--at-most {options.at_most:g}: a ratio is above 0")
    if options.simulate is not None:
        print("\n".join(rate_lines(options.simulate, options.at_most, Plan(), options.runs, TRUE_RATIOS)))
        return 0
    found = parser.run(run, options)
    print(f"\n{verdict_line(found, options.at_most)}")
    if options.json is not None:
        pairs = [{"seed": p.seed, "changed": p.changed.seconds, "base": p.base.seconds} for p in found.pairs]
        write_json(options.json, {"verdict": found.verdict.value, "pairs": pairs})
    return 0 if found.verdict is Verdict.PASS else 1


if __name__ == "__main__":
    sys.exit(main())
