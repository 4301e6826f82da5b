"""``grpo evaluate``: ask a checkpoint held-out questions."""

from __future__ import annotations

import argparse
import tempfile
from contextlib import closing
from pathlib import Path

from rich.console import Console

from grpo_core.commands.command_line.checkpoint import add_checkpoint_arguments, stored_checkpoint


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_checkpoint_arguments(parser)


def run(flags: argparse.Namespace, console: Console) -> int:
    """Print how it does. The run stays as it is."""
    stored = stored_checkpoint(flags)
    config = stored.config
    from grpo_core.evaluation.evaluator import Evaluator, held_out_environment
    from grpo_core.model.tokenizer import load_tokenizer
    from grpo_core.rollout.engines import check_engine, open_engine_for
    from grpo_core.training.checkpoint.checkpoint import read_checkpoint

    held_out_environment(config)  # what is wrong with it is said before anything is loaded
    check_engine(config)
    weights = read_checkpoint(stored.path).weights
    with tempfile.TemporaryDirectory(prefix="grpo-evaluate-") as folder:
        with console.status(f"loading {config.model.name}"):
            tokenizer = load_tokenizer(config.model.name, add_bos=config.model.add_bos)
            engine = open_engine_for(config, tokenizer.stop_ids, weights, Path(folder))
        with closing(engine):
            found = Evaluator(config, engine, tokenizer).evaluate(stored.step)
    console.print(str(found), markup=False, soft_wrap=True)
    return 0
