"""``grpo serve``: a policy as an OpenAI-compatible server."""

from __future__ import annotations

import argparse
import secrets
import tempfile
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from grpo_core.commands.command_line.checkpoint import add_checkpoint_arguments, stored_checkpoint
from grpo_core.config import GrpoConfig, build_config
from grpo_core.config.flags import put
from grpo_core.config.values import parse_setting
from grpo_core.errors import ConfigError

if TYPE_CHECKING:
    from grpo_core.types import PolicyWeights

_LOOPBACK = "127.0.0.1"
_DEFAULT_PORT = 8471


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_checkpoint_arguments(parser, is_needed=False)
    parser.add_argument("--model", metavar="NAME", help="a preset, a model folder or a hub id, in place of a run")
    parser.add_argument("--port", type=int, default=_DEFAULT_PORT, metavar="N", help="0 takes a free one")
    parser.add_argument(
        "--host", default=_LOOPBACK, metavar="ADDRESS", help="an address that others may reach; they need the key then"
    )
    parser.add_argument("--key", action="store_true", help="ask for a key on this machine, too: it has other users")
    parser.add_argument(
        "--record", type=Path, metavar="FILE", help="write ids and log-probabilities of each answer (default: none)"
    )


def run(flags: argparse.Namespace, console: Console) -> int:
    """Serve until Ctrl-C."""
    if (flags.run_name is None) == (flags.model is None):
        both = "" if flags.model is None else f"run {flags.run_name!r} and --model {flags.model!r} do not go together; "
        raise ConfigError(f"grpo serve: {both}give a RUN, as grpo runs lists it, or --model NAME")
    config, weights, name = _chosen(flags)
    from grpo_core.model.tokenizer import load_tokenizer
    from grpo_core.rollout.engines import check_engine, open_engine_for
    from grpo_core.serving.app import make_app
    from grpo_core.serving.service import Record
    from grpo_core.web.addresses import LOOPBACK_NAMES, base_url, listen
    from grpo_core.web.server import make_server

    check_engine(config)
    key = secrets.token_urlsafe(24) if flags.key or flags.host not in LOOPBACK_NAMES else None
    with (
        closing(listen(flags.host, flags.port)) as listener,
        closing(Record(flags.record)) as record,
        tempfile.TemporaryDirectory(prefix="grpo-serve-") as folder,
    ):
        with console.status(f"loading {config.model.name}"):
            tokenizer = load_tokenizer(config.model.name, add_bos=config.model.add_bos)
            engine = open_engine_for(config, tokenizer.stop_ids, weights, Path(folder))
        with closing(engine):
            if weights is not None:
                engine.use_version(weights.version.number)
            url = base_url(flags.host, listener)
            console.print(f"{name} at {url}/v1", soft_wrap=True, markup=False)
            console.print(f"API key: {key or 'any'}", soft_wrap=True, markup=False)
            console.print("Ctrl-C ends it.")
            with suppress(KeyboardInterrupt):  # uvicorn has closed everything, and hands the signal on
                app = make_app(config, engine, tokenizer, name, key, record)
                make_server(app, has_lifespan=True).run(sockets=[listener])
    return 0


def _chosen(flags: argparse.Namespace) -> tuple[GrpoConfig, PolicyWeights | None, str]:
    """The configuration, the weights of a checkpoint, and the name that clients see.

    Raises:
        ConfigError: there is no such run, step or setting.
        CheckpointError: it is damaged.
    """
    from grpo_core.training.checkpoint.checkpoint import read_checkpoint

    if flags.run_name is not None:
        stored = stored_checkpoint(flags)
        return stored.config, read_checkpoint(stored.path).weights, f"{flags.run_name}-step-{stored.step}"
    if flags.step is not None or flags.best:
        raise ConfigError("--step and --best choose a checkpoint of a RUN; leave them out with --model")
    values: dict[str, Any] = {"model": {"name": flags.model}}
    for setting in flags.changes:
        put(values, *parse_setting("--set", setting))
    config = build_config(values)
    folder = Path(config.model.name)
    return config, None, folder.name if folder.is_dir() else config.model.name
