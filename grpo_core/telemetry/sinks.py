"""Open a run's sinks: always a JSONL file; Axiom and W&B, each with its own thread, if configured."""

from __future__ import annotations

from grpo_core.config import GrpoConfig
from grpo_core.home import Home, check_name
from grpo_core.telemetry.background import BackgroundSink
from grpo_core.telemetry.events import Sink, Telemetry
from grpo_core.telemetry.jsonl import JsonlSink


def open_telemetry(config: GrpoConfig, home: Home) -> Telemetry:
    """The telemetry of ``config.run``: ``home.events/<run>.jsonl``, and Axiom and W&B when configured.

    Raises:
        CredentialsError: Axiom or W&B is half configured.
        HomeError: the events folder cannot be written.
    """
    from grpo_core.telemetry.axiom_sink import open_axiom
    from grpo_core.telemetry.wandb_sink import open_wandb

    path = home.events / f"{check_name(config.run, 'run')}.jsonl"
    connections = [open_axiom(config.telemetry), open_wandb(config, home)]
    sinks: list[Sink] = [JsonlSink(path)]
    sinks += [BackgroundSink(connection) for connection in connections if connection is not None]
    return Telemetry(config.run, sinks)
