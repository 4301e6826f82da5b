"""``grpo send``: send a run's events that a service has not got, since it was away when they happened."""

from __future__ import annotations

import argparse

from rich.console import Console

from grpo_core.config import GrpoConfig
from grpo_core.errors import ConfigError
from grpo_core.home import Home, check_name

NOT_SENT_EXIT_CODE = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--run", metavar="NAME", help="a run, or the name of a measurement (default: all whose events may wait)"
    )


def run(flags: argparse.Namespace, console: Console) -> int:
    """Send what waits. 0 when nothing waits any more, 1 when a service did not take all."""
    from grpo_core.schedule.runs.lock import hold_run

    home = Home.from_environment()
    found = _runs(home) if flags.run is None else _places(home, check_name(flags.run, "run"))
    are_sent = True
    for place, name in found:
        with hold_run(place, name):  # a run that is being trained sends its own events
            are_sent &= _send(place, name, console)
    if not found:
        console.print(f"no events wait in {home.data}", soft_wrap=True)
    return 0 if are_sent else NOT_SENT_EXIT_CODE


def _runs(home: Home) -> list[tuple[Home, str]]:
    """The runs that have been delivered in part, at least."""
    return [
        (place, name)
        for place in (home, home.measured)
        for name in sorted({path.stem.rpartition(".")[0] for path in place.deliveries.glob("[!.]*.json")})
    ]


def _places(home: Home, run: str) -> list[tuple[Home, str]]:
    """Where ``run`` has events: as a run, as a measurement, or both."""
    places = [place for place in (home, home.measured) if (place.events / f"{run}.jsonl").is_file()]
    if not places:
        runs = sorted(path.stem for path in home.events.glob("*.jsonl"))
        raise ConfigError(f"--run {run}: no events of it in {home.events}; runs there: {', '.join(runs) or 'none'}")
    return [(place, run) for place in places]


def _send(home: Home, run: str, console: Console) -> bool:
    """Send the events of ``run`` in ``home`` to each service. Whether all of them took all."""
    from grpo_core.telemetry.delivery.delivery import Delivery, DeliveryError
    from grpo_core.telemetry.sinks import open_connections

    connections = open_connections(_config_of(home, run), home, continues=True)
    if not connections:
        raise ConfigError(
            "no service to send to; set AXIOM_TOKEN and AXIOM_DATASET, WANDB_API_KEY or OTEL_EXPORTER_OTLP_ENDPOINT, "
            "as when the run was trained"
        )
    are_sent = True
    for connection in connections:
        delivery = Delivery.of_run(connection, home, run)
        before = delivery.num_waiting
        reason = ""
        try:
            while delivery.send_next():
                pass
            delivery.close()
        except DeliveryError as error:
            are_sent, reason = False, f"; {error}"
        waiting = delivery.num_waiting
        console.print(f"{run}: {before - waiting} events to {connection.name}, {waiting} wait{reason}", soft_wrap=True)
    return are_sent


def _config_of(home: Home, run: str) -> GrpoConfig:
    """The configuration that W&B shows with the run."""
    from grpo_core.config import build_config
    from grpo_core.training.checkpoint.state import newest_state

    state = newest_state(home.checkpoints / run)
    return GrpoConfig(run=run) if state is None else build_config({**state["config"], "run": run})
