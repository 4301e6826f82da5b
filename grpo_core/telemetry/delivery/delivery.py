"""The way of a run's events from their file to a service: in order, and again until the service has them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Protocol

from grpo_core.errors import first_line
from grpo_core.home import Home
from grpo_core.telemetry.delivery.cursor import Cursor, Place
from grpo_core.telemetry.events import Record
from grpo_core.telemetry.jsonl import Page

logger = logging.getLogger(__name__)

MAX_BATCH_EVENTS = 1_000
_LONGEST_RETRY_AFTER_S = 3600.0


class DeliveryError(Exception):
    """A service did not take events.

    Without more they are sent again, after ``retry_after_s`` at the earliest. With ``is_refusal`` the service will
    never take them as they are.
    """

    def __init__(self, reason: str, *, retry_after_s: float = 0.0, is_refusal: bool = False) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s
        self.is_refusal = is_refusal


class Connection(Protocol):
    """A service that takes events over a network. All calls come from one thread."""

    name: str

    def open(self) -> None:
        """Raises ``DeliveryError`` when the service cannot be used now. Then it is opened again later."""
        ...

    def send(self, records: Sequence[Record]) -> int:
        """Returns how many of ``records`` the service refused. Raises ``DeliveryError`` when it took none for sure."""
        ...

    def close(self) -> None:
        """Raises ``DeliveryError`` when events that were sent are not there yet; its reason says what to do."""
        ...


class Delivery:
    """Sends the events of the file ``events`` that ``connection`` has not got yet, in order.

    An event may be sent twice, when the answer to the first time was lost. Its ``id`` tells.
    """

    def __init__(self, connection: Connection, events: Path, cursor: Path) -> None:
        """
        Raises:
            HomeError: the folder of ``cursor`` cannot be made.
        """
        self.name = connection.name
        self.num_refused = 0
        self._connection = connection
        self._events = events
        self._cursor = Cursor(cursor, events)
        self._is_open = False
        self._max_batch_events = MAX_BATCH_EVENTS

    @classmethod
    def of_run(cls, connection: Connection, home: Home, run: str) -> Delivery:
        """The delivery of ``run`` in ``home``. Raises as the constructor."""
        return cls(connection, home.events / f"{run}.jsonl", home.deliveries / f"{run}.{connection.name}.json")

    def send_next(self) -> bool:
        """Send some events. Returns whether there were any.

        Raises:
            DeliveryError: they could not be sent now, and wait.
        """
        with _failures_are_told():
            for page, place in self._cursor.pages(self._max_batch_events):
                if page.records:
                    self._send(page, place)
                    return True
                self._cursor.advance(place)  # lines that are no events
        return False

    def _send(self, page: Page, place: Place) -> None:
        if not self._is_open:
            self._connection.open()
            self._is_open = True
        try:
            self.num_refused += self._connection.send(page.records)
        except DeliveryError as error:
            if not error.is_refusal:
                raise
            if len(page.records) > 1:  # fewer and fewer, until the one that it minds is alone
                self._max_batch_events = len(page.records) // 2
                return
            self.num_refused += 1
        self._max_batch_events = MAX_BATCH_EVENTS
        self._cursor.advance(place)

    @property
    def num_waiting(self) -> int:
        """Events that are in the file and not at the service."""
        return sum(len(page.records) for page, _ in self._cursor.pages(MAX_BATCH_EVENTS))

    def close(self) -> None:
        """Close the connection, if it was opened. Raises as ``Connection.close``."""
        if self._is_open:
            with _failures_are_told():
                self._connection.close()


@contextmanager
def _failures_are_told() -> Iterator[None]:
    """Say in one line whatever a service's client raises. The events wait, and are sent again."""
    try:
        yield
    except DeliveryError:
        raise
    except Exception as error:
        logger.debug("the client failed", exc_info=error)
        raise DeliveryError(f"its client failed with {type(error).__name__}: {first_line(error)}") from error


def retry_after_s(header: str | None, now_s: float) -> float:
    """Seconds from ``now_s`` (since 1970) that a ``Retry-After`` asks for, an hour at most; 0 when it asks for none."""
    if header is None:
        return 0.0
    try:
        seconds = float(header) if header.strip().isdecimal() else parsedate_to_datetime(header).timestamp() - now_s
    except ValueError:
        return 0.0
    return min(max(seconds, 0.0), _LONGEST_RETRY_AFTER_S)
