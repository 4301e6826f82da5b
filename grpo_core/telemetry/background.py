"""A queue and a thread between training and a service: emitting an event never waits for the network."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from grpo_core.telemetry.events import Event

logger = logging.getLogger(__name__)


class DeliveryError(Exception):
    """A service did not take events. ``num_lost`` of the batch are gone, all of it when None."""

    def __init__(self, reason: str, num_lost: int | None = None) -> None:
        super().__init__(reason)
        self.num_lost = num_lost


class Connection(Protocol):
    """A service that takes events over a network. All calls come from the thread of one ``BackgroundSink``."""

    name: str

    def open(self) -> None:
        """Raises ``DeliveryError`` when the service cannot be used at all."""
        ...

    def send(self, events: Sequence[Event]) -> None:
        """Raises ``DeliveryError`` when some of them were not taken."""
        ...

    def close(self) -> None:
        """Raises ``DeliveryError`` when events that were sent are lost after all."""
        ...


class BackgroundSink:
    """Hands events to a connection in batches, from its own thread, so that ``write`` never waits for a network.

    A service that fails never breaks training: the first failure is logged, later ones are only counted. Events that
    find the queue full are dropped and counted too; ``close`` says how many were lost.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        max_queued_events: int = 10_000,
        max_batch_events: int = 1_000,
        max_delay_s: float = 0.5,
        close_timeout_s: float = 20.0,
    ) -> None:
        self._connection = connection
        self._max_queued_events = max_queued_events
        self._max_batch_events = max_batch_events
        self._max_delay_s = max_delay_s
        self._close_timeout_s = close_timeout_s
        self._changed = threading.Condition()
        self._queue: deque[Event] = deque()
        self._num_in_flight = 0
        self._num_flushes = 0  # threads that wait in flush
        self._num_written = 0
        self._num_lost = 0
        self._has_failed = False
        self._closing = False
        self._thread = threading.Thread(target=self._run, name=f"telemetry-{connection.name}", daemon=True)
        self._thread.start()

    @property
    def num_lost(self) -> int:
        """Events that were not delivered so far."""
        return self._num_lost

    def write(self, event: Event) -> None:
        with self._changed:
            self._num_written += 1
            if len(self._queue) >= self._max_queued_events:
                self._num_lost += 1
                return
            self._queue.append(event)
            if len(self._queue) >= self._max_batch_events:
                self._changed.notify_all()

    def flush(self) -> None:
        with self._changed:
            self._num_flushes += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._queue and not self._num_in_flight, self._close_timeout_s)
            self._num_flushes -= 1

    def close(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(self._close_timeout_s)
        with self._changed:
            self._num_lost += len(self._queue) + self._num_in_flight  # none, unless the thread did not end in time
            num_lost, num_written = self._num_lost, self._num_written
        if num_lost:
            level = logging.INFO if self._has_failed else logging.WARNING  # a failure has been warned about once
            logger.log(level, "%s: %d of %d events were lost", self._connection.name, num_lost, num_written)

    def _run(self) -> None:
        usable = self._try(self._connection.open, 0)
        while batch := self._next_batch():
            if usable:
                self._try(partial(self._connection.send, batch), len(batch))
            with self._changed:
                self._num_lost += 0 if usable else len(batch)
                self._num_in_flight = 0
                self._changed.notify_all()
        if usable:
            self._try(self._connection.close, 0)

    def _try(self, action: Callable[[], None], num_events: int) -> bool:
        """Whether ``action`` worked. If not, count ``num_events`` as lost, or as many as the error says."""
        try:
            action()
        except DeliveryError as error:
            with self._changed:
                self._num_lost += num_events if error.num_lost is None else error.num_lost
            if not self._has_failed:
                self._has_failed = True
                name = self._connection.name
                logger.warning("%s: %s; training goes on, and events that it does not take are lost", name, error)
            return False
        return True

    def _next_batch(self) -> list[Event]:
        """Waits for events, ``max_delay_s`` at most once there is one. Empty when the sink is closed and empty."""
        with self._changed:
            while True:
                self._changed.wait_for(self._is_urgent, self._max_delay_s)
                if self._queue or self._closing:
                    break
            batch = [self._queue.popleft() for _ in range(min(len(self._queue), self._max_batch_events))]
            self._num_in_flight = len(batch)
            return batch

    def _is_urgent(self) -> bool:
        enough = len(self._queue) >= self._max_batch_events
        return self._closing or enough or bool(self._queue and self._num_flushes)
