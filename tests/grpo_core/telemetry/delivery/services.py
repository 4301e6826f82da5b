"""A service in memory, and the way of events to it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

from grpo_core.telemetry.delivery.background_sink import BackgroundSink
from grpo_core.telemetry.delivery.delivery import Delivery, DeliveryError
from grpo_core.telemetry.events import Record, Telemetry
from grpo_core.telemetry.jsonl import JsonlSink

WAIT_S = 30.0  # how long a test waits for another thread before it fails


class Service:
    """Takes events in memory. It can be held up, and be away."""

    name = "service"

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.ids: list[str] = []
        self.failure: DeliveryError | None = None  # of every call while it is set
        self.failed = threading.Event()
        self.num_opened = 0
        self.is_closed = False
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.is_sending = threading.Event()

    @property
    def numbers(self) -> list[int]:
        return [number for batch in self.batches for number in batch]

    def open(self) -> None:
        self._fail_if_away()
        self.num_opened += 1

    def send(self, records: Sequence[Record]) -> int:
        self.is_sending.set()
        assert self.may_go_on.wait(WAIT_S)
        self._fail_if_away()
        self.batches.append([record["batch_index"] for record in records])
        self.ids += [record["id"] for record in records]
        return 0

    def close(self) -> None:
        self.is_closed = True

    def _fail_if_away(self) -> None:
        if self.failure is not None:
            self.failed.set()
            raise self.failure


def delivery_to(service: Service, folder: Path) -> Delivery:
    return Delivery(service, folder / "r.jsonl", folder / "sent" / "r.service.json")


def telemetry_to(service: Service, folder: Path, **options: float) -> Telemetry:
    """Events in ``folder/r.jsonl`` and at ``service``."""
    sinks = [
        JsonlSink(folder / "r.jsonl"),
        BackgroundSink(delivery_to(service, folder), "grpo send --run r", **options),
    ]
    return Telemetry("r", sinks)


def emit(telemetry: Telemetry, numbers: range) -> None:
    for number in numbers:
        telemetry.emit("rollout", batch_index=number)
