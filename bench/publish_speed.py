"""What publishing takes of a training step, written by a thread or waited for.

    uv run python -m bench.publish_speed --set model.name=small

Both arms train from the same seed, in pairs of whole runs in random order. One publishes as ``grpo train`` does; the
other waits until the version is hashed, written and synced, and its sampler reads it back from the disk.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any
from unittest.mock import patch

from grpo_core.commands.train import FIRST_RUN
from grpo_core.config import build_config
from grpo_core.config.flags import put
from grpo_core.config.values import parse_setting
from grpo_core.home import Home
from grpo_core.lora.store import AdapterStore
from grpo_core.schedule import stack as parts
from grpo_core.schedule.loop import train
from grpo_core.telemetry.events import Event, Telemetry

ARMS = ("waited for", "in a thread")


@dataclass(frozen=True, slots=True)
class Costs:
    """Means over the steps of one run, after the first."""

    publish_ms: float  # of the trainer's thread
    load_ms: float  # of the rollout thread
    step_ms: float
    num_bytes: int


class _Heard:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def write(self, event: Event) -> None:
        self.events.append(event)

    def flush(self) -> None:
        """Nothing waits."""

    def begin_close(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """Nothing is open."""


def run(settings: dict[str, Any], *, waits: bool) -> Costs:
    """Train once. Raises as ``train``."""
    config = build_config(settings)
    heard = _Heard()
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.object(parts, "BackgroundStore", AdapterStore if waits else parts.BackgroundStore),
    ):
        stack = parts.build_stack(config, Home(Path(folder) / "data", Path(folder) / "traces"))
        with stack:
            reports = train(stack, Telemetry(config.run, [heard]), save_checkpoints=False).reports[1:]
    loads = [_number(event, "load_ms") for event in heard.events if event.kind == "adapter_load"]
    sizes = [_number(event, "num_bytes") for event in heard.events if event.kind == "adapter_publish"]
    return Costs(
        publish_ms=mean(report.publish_ms for report in reports),
        load_ms=mean(load for load in loads if load),  # the base model has nothing to load
        step_ms=1e3 * mean(report.step_s for report in reports),
        num_bytes=int(sizes[0]),
    )


def _number(event: Event, name: str) -> float:
    value = event.fields[name]
    assert isinstance(value, int | float)
    return value


def _spread(values: list[float], digits: int = 2) -> str:
    return f"{median(values):.{digits}f} [{min(values):.{digits}f}, {max(values):.{digits}f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--num-pairs", type=int, default=6)
    parser.add_argument("--num-steps", type=int, default=8)
    flags = parser.parse_args()
    settings: dict[str, Any] = {}
    for key, value in [*FIRST_RUN.items(), ("schedule.num_steps", flags.num_steps), ("run", "publishing")]:
        put(settings, key, value)
    for text in flags.set:
        put(settings, *parse_setting("--set", text))
    found: dict[str, list[Costs]] = {arm: [] for arm in ARMS}
    run(settings, waits=False)  # what is built once is not in the figures
    for _ in range(flags.num_pairs):
        for arm in random.sample(ARMS, 2):
            found[arm].append(run(settings, waits=arm == ARMS[0]))
    print(f"{found[ARMS[0]][0].num_bytes / 1e6:.1f} MB a version, {flags.num_pairs} pairs of {flags.num_steps} steps")
    print("| | publishing, in the trainer | loading, in the rollout thread | share of the step |\n|---|---|---|---|")
    for arm, costs in found.items():
        shares = [100 * each.publish_ms / each.step_ms for each in costs]
        columns = [_spread([each.publish_ms for each in costs]), _spread([each.load_ms for each in costs])]
        print(f"| {arm} | {columns[0]} ms | {columns[1]} ms | {_spread(shares, 1)} % |")
    pairs = list(zip(*found.values(), strict=True))
    print(f"ratio, in a thread to waited for: {_spread([new.publish_ms / old.publish_ms for old, new in pairs])}")
    print(f"ratio of the steps: {_spread([new.step_ms / old.step_ms for old, new in pairs])}")


if __name__ == "__main__":
    main()
