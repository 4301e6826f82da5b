"""A queue and a thread between training and a service: emitting an event never waits for the network."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from grpo_core.telemetry.events import Event

MAX_RETRY_DELAY_S = 30.0

logger = logging.getLogger(__name__)


class DeliveryError(Exception):
    """A service did not take events: ``num_lost`` of the batch, which it refuses for good, or all of it when None."""

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

    A service that fails, in whatever way, never breaks training. The first failure is logged, later ones are only
    counted. What was not taken stays in the queue and is sent again, first soon, then every ``MAX_RETRY_DELAY_S``.
    Events that find the queue full are dropped and counted; ``close`` says how many were lost.
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
        self._name = connection.name
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
        self._num_failures = self._num_failures_in_a_row = 0
        self._retry_at_s = 0.0  # on the monotonic clock; not before, unless somebody waits
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
            num_failures = self._num_failures
            self._changed.notify_all()
            self._changed.wait_for(
                lambda: not (self._queue or self._num_in_flight) or self._num_failures > num_failures,
                self._close_timeout_s,
            )
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
            level = logging.INFO if self._num_failures else logging.WARNING  # a failure has been warned about once
            logger.log(level, "%s: %d of %d events were lost", self._name, num_lost, num_written)

    def _run(self) -> None:
        is_open = self._try(self._connection.open)
        while batch := self._next_batch():
            is_open = is_open or self._try(self._connection.open)
            is_taken = is_open and self._try(partial(self._connection.send, batch))
            with self._changed:
                if not is_taken:
                    self._queue.extendleft(reversed(batch))
                self._num_in_flight = 0
                self._changed.notify_all()
                if not is_taken and self._closing:
                    break  # that was the last attempt
        if is_open:
            self._try(self._connection.close)

    def _try(self, action: Callable[[], None]) -> bool:
        """Whether ``action`` worked, but for events that the service refused for good."""
        try:
            action()
        except DeliveryError as error:
            self._fail(error, error.num_lost)
            return error.num_lost is not None
        except Exception as error:  # whatever its client raises, the thread must go on
            self._fail(error, None)
            return False
        with self._changed:
            self._num_failures_in_a_row = 0
        return True

    def _fail(self, error: Exception, num_lost: int | None) -> None:
        with self._changed:
            self._num_failures += 1
            self._num_lost += num_lost or 0
            if num_lost is None:
                self._num_failures_in_a_row = min(self._num_failures_in_a_row + 1, 16)
                delay_s = min(MAX_RETRY_DELAY_S, self._max_delay_s * 2**self._num_failures_in_a_row)
                self._retry_at_s = time.monotonic() + delay_s
            is_first = self._num_failures == 1
        if is_first:
            reason = str(error).partition("\n")[0] or type(error).__name__
            what = reason if isinstance(error, DeliveryError) else f"{type(error).__name__}: {reason}"
            logger.warning("%s: %s; training goes on, and what it does not take is sent again", self._name, what)

    def _next_batch(self) -> list[Event]:
        """Waits for events, ``max_delay_s`` at most once there is one. Empty when the sink is closed and empty."""
        with self._changed:
            while True:
                self._changed.wait_for(self._is_urgent, self._max_delay_s)
                is_due = time.monotonic() >= self._retry_at_s or self._is_urgent()
                if self._closing or (self._queue and is_due):
                    break
            batch = [self._queue.popleft() for _ in range(min(len(self._queue), self._max_batch_events))]
            self._num_in_flight = len(batch)
            return batch

    def _is_urgent(self) -> bool:
        enough = len(self._queue) >= self._max_batch_events and time.monotonic() >= self._retry_at_s
        return self._closing or enough or bool(self._queue and self._num_flushes)
