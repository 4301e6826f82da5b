"""Speed of a training step: this trainer with shared prompts, with padded rows, and TRL's.

``uv run --extra trl python bench/trainer_speed.py --json speed.json`` gives all arms the same tensors in each round,
in random order, checks that their results agree, and prints Markdown tables. Each arm with a sampler also samples as
many tokens as it trains on, to show the gain of the whole step. ``--growth FILE.svg`` adds the time of a step by group
size. ``--presets qwen2.5-0.5b --arms shared`` is a model of that shape with random weights; with 151,936 ids the logits
of the other arms need more than 10 GB.

Arms: ``shared`` is this project's trainer, ``padded`` the same with ``packing = "padded"``, ``trl`` is TRL's
GRPOTrainer.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from bench.reporting import options as shared
from bench.reporting.options import OneLineParser, new_file, positive

if TYPE_CHECKING:
    from bench.reporting.figures import Report

ARMS = ("shared", "padded", "trl")
PRESETS = ("tiny", "small")
MODELS = (*PRESETS, "qwen2.5-0.5b", "tiny-wide")
"""The presets, and models of a shape with random weights, see ``bench.model_shapes``."""


def run(options: argparse.Namespace) -> list[Report]:
    """All selected parts."""
    from bench.model_shapes import built_model
    from bench.reporting.figures import Report
    from bench.rollout_arms.arm import Setup
    from bench.trainer_arms.arms import SHARED, build_arms, model_config
    from bench.trainer_arms.batches import BatchShape
    from bench.trainer_arms.scaling import measure_scaling
    from bench.trainer_arms.speed import measure_speed

    missing: list[str] = []
    arms = list(options.arms)
    if "trl" in arms and find_spec("trl") is None:
        arms.remove("trl")
        missing.append("Arm trl left out: trl is not installed; run: pip install 'pytest-grpo[trl]'")
    shape = BatchShape(options.groups, options.group_size, options.prompt_tokens, options.new_tokens)
    reports: list[Report] = []
    with tempfile.TemporaryDirectory() as folder:
        preset = options.presets[0]
        setup = Setup(
            model_config(built_model(preset, Path(folder) / preset)),
            options.threads,
            max_sequences=shape.num_groups * shape.group_size,
            folder=Path(folder),
        )
        if options.growth is not None:
            (arm,) = build_arms([SHARED], setup, with_rollouts=False).values()
            reports.append(measure_scaling(preset, arm, shape, options.growth))
        speed = measure_speed(setup, options.presets, shape, arms, options.rounds, options.seed)
    return [speed, *reports, Report((*missing, _load_line()), {})]


def _load_line() -> str:
    """Load from other processes slows every arm, and an arm with many small matrix products most."""
    return f"Mean load of the last minutes: {', '.join(f'{value:.1f}' for value in os.getloadavg())}."


def _group_size(text: str) -> int:
    if positive(text) < 2:
        raise argparse.ArgumentTypeError(f"{text!r}: allowed are whole numbers from 2")
    return int(text)


def _presets(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if not set(names) <= set(MODELS):
        raise argparse.ArgumentTypeError(f"{text!r}: allowed are any of {', '.join(MODELS)}")
    return names


def _parser() -> OneLineParser:
    parser = OneLineParser(description="Time training steps of this project's trainer and TRL's, in turn.")
    shared.add_arms(parser, ARMS)
    told = f"of {', '.join(MODELS)} (default tiny,small)"
    parser.add_argument("--presets", type=_presets, default=PRESETS, metavar="NAME[,NAME]", help=told)
    parser.add_argument("--groups", type=positive, default=2, help="prompts per batch (default 2)")
    shared.add_workload(parser, group_size="completions per prompt", read_group_size=_group_size)
    shared.add_threads(parser, default=2)
    parser.add_argument(
        "--growth",
        type=new_file,
        metavar="FILE.svg",
        help="also time group sizes of the first preset, and draw them here",
    )
    shared.add_json(parser)
    shared.add_markdown(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0; a mistake on the command line ends with 2."""
    parser = _parser()
    options = parser.parse_args(arguments)
    from bench.reporting.figures import publish

    reports = parser.run(run, options)
    publish(reports, options.markdown, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
