"""Learning curves: training steps to a given reward, here and in TRL's ``GRPOTrainer``, on the same data and seeds.

``python bench/learning_curve.py --json curve.json --svg curve.svg`` trains both on ``arithmetic`` from the same
adapter, for each seed in turn, and prints a Markdown table. A run has learned when its mean reward over the last
``--window`` steps reaches ``--reward``; a run that never does counts as its number of steps plus one. Without TRL, only
this project is trained.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench.reporting import options as shared
from bench.reporting.options import OneLineParser, natural, new_file, numbers_of, positive
from grpo_core.home import write_atomic, write_json

if TYPE_CHECKING:
    from bench.learning_arms.run import LearningRun
    from bench.reporting.figures import Figure
    from pytest_grpo.reports.markup import Markup

RunsByArm = Mapping[str, Sequence["LearningRun"]]
"""By arm, one per seed."""


def run(options: argparse.Namespace) -> dict[str, list[LearningRun]]:
    """Train each arm with each seed.

    Raises:
        GrpoError: there is no such model.
    """
    import torch

    from bench.learning_arms import core_arm, trl_arm
    from bench.learning_arms.run import Task

    torch.set_num_threads(options.threads)

    def learn(num_steps: int, seed: int) -> dict[str, LearningRun]:
        task = Task(options.model, num_steps, options.groups, options.group_size, options.new_tokens, seed)
        with tempfile.TemporaryDirectory() as folder:
            found, start = core_arm.learn(task, Path(folder))
            return {"grpo_core": found} | ({"trl": trl_arm.learn(task, start, Path(folder))} if has_trl() else {})

    learn(1, 0)  # what is loaded and compiled once is not in the seconds
    by_seed = [learn(options.steps, seed) for seed in options.seeds]
    return {arm: [found[arm] for found in by_seed] for arm in by_seed[0]}


def has_trl() -> bool:
    return find_spec("trl") is not None


def figures(runs: RunsByArm, reward: float, window: int) -> dict[str, Figure]:
    """``steps_to_reward`` and ``seconds_to_reward`` per arm, and their ratios to TRL's, seed by seed."""
    from bench.reporting.figures import Figure

    found: dict[str, Figure] = {}
    for arm, of_arm in runs.items():
        found[f"steps_to_reward_{arm}"] = Figure.of(steps(of_arm, reward, window), "steps")
        found[f"seconds_to_reward_{arm}"] = Figure.of(seconds(of_arm, reward, window), "s")
    if "trl" in runs:
        for name, values in {"steps": steps, "seconds": seconds}.items():
            ours, theirs = (values(runs[arm], reward, window) for arm in ("grpo_core", "trl"))
            ratios = [mine / its for mine, its in zip(ours, theirs, strict=True)]
            found[f"{name}_vs_trl"] = Figure.of(ratios, "ratio", at_most=1)
    return found


def seconds(runs: Sequence[LearningRun], reward: float, window: int) -> list[float]:
    """The seconds to the reward of each run; all of its seconds if it was never reached."""
    return [one.seconds_to(reward, window) for one in runs]


def steps(runs: Sequence[LearningRun], reward: float, window: int) -> list[int]:
    """The steps to the reward of each run; the number of steps plus one if it was never reached."""
    return [one.steps_to(reward, window) or len(one.rewards) + 1 for one in runs]


def table(runs: RunsByArm, seeds: Sequence[int], reward: float, window: int) -> list[str]:
    """One row per seed and arm, then the figures."""
    from bench.reporting.figures import figure_table, row, table_head

    lines = [*table_head("seed", "arm", "first reward", "last reward", f"steps to {reward:g}", "seconds")]
    for place, seed in enumerate(seeds):
        for arm, of_arm in runs.items():
            means = of_arm[place].trailing_means(window)
            reached = of_arm[place].steps_to(reward, window) or "never"
            cells = (f"{means[window - 1]:.3f}", f"{means[-1]:.3f}", reached)
            lines.append(row(seed, arm, *cells, f"{of_arm[place].seconds_to(reward, window):.1f}"))
    return [*lines, "", *figure_table(figures(runs, reward, window))]


def drawing(runs: RunsByArm, window: int) -> Markup:
    """Trailing means by step, averaged over the seeds; the first full window is the first point."""
    from bench.reporting.drawing import Panel, Point, picture

    points = []
    for arm, of_arm in runs.items():
        means = np.mean([one.trailing_means(window) for one in of_arm], axis=0)
        for step in range(window, len(means) + 1):
            value = float(means[step - 1])
            points.append(Point(step, value, arm, f"{arm}, step {step}: {value:.3f}", is_hollow=arm == "trl"))
    num_seeds = len(runs["grpo_core"])
    return picture(f"Mean reward, last {window} steps, {num_seeds} seeds", [Panel("step", points)])


def _parser() -> OneLineParser:
    parser = OneLineParser(description="Train on arithmetic here and in TRL, and compare the steps it takes.")
    add = parser.add_argument
    add("--steps", type=positive, default=60, help="training steps per run (default 60)")
    add("--seeds", type=numbers_of(natural), default=(0, 1, 2), metavar="N[,N]", help="a run each (default 0,1,2)")
    add("--groups", type=positive, default=16, help="questions per step (default 16)")
    add("--group-size", type=positive, default=8, help="answers per question (default 8)")
    add("--new-tokens", type=positive, default=16, help="maximum length of an answer (default 16)")
    add("--reward", type=float, default=0.3, help="mean reward that counts as learned (default 0.3)")
    add("--window", type=positive, default=10, help="steps that the reward is averaged over (default 10)")
    shared.add_model(parser)
    shared.add_threads(parser, default=1)
    shared.add_json(parser)
    add("--svg", type=new_file, metavar="FILE", help="draw the curves to this file")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0; a mistake on the command line ends with 2."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if not 1 <= options.window <= options.steps:
        parser.error(f"--window {options.window}: allowed are 1 to --steps {options.steps}")
    runs = parser.run(run, options)
    print("\n".join(table(runs, options.seeds, options.reward, options.window)))
    if not has_trl():
        print("\nArm trl left out: trl is not installed; run: pip install 'pytest-grpo[trl]'")
    if options.json is not None:
        found = figures(runs, options.reward, options.window)
        write_json(options.json, {key: figure.as_json() for key, figure in found.items()})
    if options.svg is not None:
        write_atomic(options.svg, str(drawing(runs, options.window)).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
