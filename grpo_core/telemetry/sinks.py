"""Open a run's sinks: always a JSONL file; Axiom, W&B and OpenTelemetry, each with its own thread, if configured."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from grpo_core.home import Home, check_name
from grpo_core.telemetry.delivery.background_sink import BackgroundSink
from grpo_core.telemetry.delivery.delivery import Connection, Delivery
from grpo_core.telemetry.events import Sink, Telemetry
from grpo_core.telemetry.jsonl import JsonlSink

if TYPE_CHECKING:
    from grpo_core.config import GrpoConfig


def open_telemetry(config: GrpoConfig, home: Home) -> Telemetry:
    """The telemetry of ``config.run``: ``home.events/<run>.jsonl``, and Axiom, W&B and OpenTelemetry when
    configured.

    Raises:
        CredentialsError: a service is half configured.
        HomeError: the events folder cannot be written.
    """
    run = check_name(config.run, "run")
    is_resumed = any((home.checkpoints / run).glob("step-*"))  # else training refuses to begin
    connections = open_connections(config, home, continues=is_resumed)
    # The file comes first: services get their events from it.
    sinks: list[Sink] = [JsonlSink(home.events / f"{run}.jsonl", config.telemetry.max_events_bytes)]
    sinks += [
        BackgroundSink(Delivery.of_run(connection, home, run), f"grpo send --run {run}") for connection in connections
    ]
    return Telemetry(run, sinks)


def open_connections(config: GrpoConfig, home: Home, *, continues: bool) -> list[Connection]:
    """The services that the configuration and the environment ask for. None is contacted yet. ``continues``: an earlier
    process began to send this run.

    Raises:
        CredentialsError, ConfigError: a service is half configured.
        HomeError: W&B's folder cannot be written.
    """
    from grpo_core.telemetry.axiom import open_axiom
    from grpo_core.telemetry.otel.connection import open_otel
    from grpo_core.telemetry.wandb.connection import open_wandb

    connections = (
        open_axiom(config.telemetry),
        open_wandb(config, home, continues=continues),
        open_otel(config, os.environ),
    )
    return [connection for connection in connections if connection is not None]
