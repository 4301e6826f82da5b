"""``grpo export``: a checkpoint as a folder for PEFT, transformers and vLLM, or as a model on the hub."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from grpo_core.commands.command_line.checkpoint import add_checkpoint_arguments, stored_checkpoint


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_checkpoint_arguments(parser)
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder; it must not exist yet")
    parser.add_argument(
        "--merge", action="store_true", help="a whole model with the adapter in its weights, not the adapter alone"
    )
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="where the base model is now, if it has moved; it is loaded, and compared",
    )
    parser.add_argument("--push", metavar="OWNER/NAME", help="upload the folder to the hub; a new model is private")


def run(flags: argparse.Namespace, console: Console) -> int:
    """Write the folder, then push it."""
    stored = stored_checkpoint(flags)
    from grpo_core.export.folder import check_target, export_checkpoint
    from grpo_core.export.hub import check_repository, push_folder
    from grpo_core.training.checkpoint.checkpoint import read_checkpoint

    check_target(flags.out)
    if flags.push is not None:
        check_repository(flags.push)
    config = stored.config
    checkpoint = read_checkpoint(stored.path)
    export_checkpoint(checkpoint, config, flags.out, merge=flags.merge, moved_model=flags.model)
    console.print(f"step {stored.step} of {config.run}: {flags.out}", soft_wrap=True, markup=False)
    if flags.push is not None:
        console.print(f"pushed: {push_folder(flags.out, flags.push)}", soft_wrap=True, markup=False)
    return 0
