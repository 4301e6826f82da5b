"""Every figure of this project on a GPU, by one command of at most nine minutes that installs nothing.

``uv run python bench/gpu_acceptance.py --json gpu.json --markdown gpu.md`` makes a model with the shape of Qwen3-4B and
random weights on the device, and measures with it, each part in a process of its own: training at 16,384 and 65,536
tokens, FlexAttention beside SDPA, decoding by this project's engine and by vLLM where it is installed, adapter swaps.
Then it runs the phases. ``--shape toy --device cpu`` is the same in small, without a GPU.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator

from bench.gpu_study.part import PARTS, run_part
from bench.gpu_study.row import Row, Work
from bench.gpu_study.shape import SHAPES
from bench.reporting.figures import row as table_row
from bench.reporting.figures import table_head
from bench.reporting.options import OneLineParser, add_json, add_markdown, positive
from grpo_core.home import write_atomic, write_json
from grpo_core.telemetry.gpu import read_device

MAX_S = 540
LIMITS_S = {
    "machine": 60,
    "training": 150,
    "attention": 100,
    "decoding": 100,
    "vllm": 150,
    "swapping": 60,
    "phases": MAX_S,
}
"""Of each part; the phases get what is left."""
LARGE = {
    "dtype": "bfloat16",
    "train_tokens": (16_384, 65_536),
    "attention_tokens": (512, 1024, 2048, 4096, 8192, 16_384),
    "decode_rows": (1, 8, 64),
    "prompt_tokens": 512,
    "new_tokens": 128,
    "budget_s": 4,
    "phases": "all",
}
TOY = {
    "dtype": "float32",
    "train_tokens": (256, 512),
    "attention_tokens": (128, 256),
    "decode_rows": (1, 4),
    "prompt_tokens": 32,
    "new_tokens": 16,
    "budget_s": 2,
    "phases": "0",
}


def main(arguments: list[str] | None = None) -> int:
    """0; 1 when a part failed, which is a row with the reason; 130 after Ctrl-C; 2 for a mistake in the arguments."""
    parser = OneLineParser(description="Measure this project on a GPU.")
    parser.add_argument("--parts", nargs="+", choices=tuple(PARTS), default=tuple(PARTS), help="which (default: all)")
    parser.add_argument("--shape", choices=tuple(SHAPES), default="qwen3-4b", help="of the model (default qwen3-4b)")
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), default="cuda", help="default cuda; a CPU takes the toy only"
    )
    parser.add_argument("--max-s", type=positive, default=MAX_S, help=f"seconds for all parts (default {MAX_S})")
    add_json(parser)
    add_markdown(parser)
    options = parser.parse_args(arguments)
    problem = _problem(options.device, options.shape)
    if problem:
        parser.error(problem)
    with tempfile.TemporaryDirectory(prefix="grpo-gpu-") as folder:
        sizes = TOY if options.shape == "toy" else LARGE
        work = Work.model_validate({**sizes, "shape": options.shape, "folder": folder, "device": options.device})
        parts = ("machine", *(part for part in options.parts if part != "machine"))
        rows: list[Row] = []
        is_whole = _collect(measure(work, parts, options.max_s), rows)
    device = read_device()
    text = "\n".join(_lines(device.name, options.shape, rows)) + "\n"
    print(text, end="")
    if options.markdown is not None:
        write_atomic(options.markdown, text.encode())
    if options.json is not None:
        figures = {row.name: row.model_dump(exclude={"name"}) for row in rows}
        machine = {"device": device.name, "driver": device.driver, "shape": options.shape}
        write_json(options.json, {**machine, "figures": figures})
    return int(any(row.name in PARTS for row in rows)) if is_whole else 130


def _collect(found: Iterator[Row], rows: list[Row]) -> bool:
    """Put them into ``rows``. False after Ctrl-C, which keeps the parts that have ended."""
    try:
        for row in found:
            rows.append(row)
    except KeyboardInterrupt:
        print("stopped: the parts that have ended are in the table", file=sys.stderr)
        return False
    return True


def measure(work: Work, parts: tuple[str, ...], max_s: float) -> Iterator[Row]:
    """The rows of all ``parts``, within ``max_s`` seconds."""
    ends_s = time.monotonic() + max_s
    for part in parts:
        left_s = ends_s - time.monotonic()
        if left_s <= 0:
            yield Row(name=part, value=None, note=f"no time left of {max_s:.0f} s")
            continue
        print(f"{part}: at most {min(LIMITS_S[part], left_s):.0f} s", file=sys.stderr, flush=True)
        yield from run_part(part, work, min(LIMITS_S[part], left_s))


def _problem(device: str, shape: str) -> str:
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        return "--device cuda: torch finds no GPU here; try --device cpu --shape toy"
    if device == "cpu" and shape != "toy":
        return f"--shape {shape}: a CPU takes the toy only; try --device cpu --shape toy"
    return ""


def _lines(device: str, shape: str, rows: list[Row]) -> list[str]:
    lines = [f"Device: {device}. Shape: {shape}, random weights.", ""]
    lines += table_head("figure", "value", "unit", "to beat", "note")
    for row in rows:
        value = "-" if row.value is None else f"{row.value:.4g}"
        lines.append(table_row(f"`{row.name}`", value, row.unit, row.rival, row.note))
    return lines


if __name__ == "__main__":
    sys.exit(main())
