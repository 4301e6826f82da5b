"""A thread between training and a service: emitting an event never waits for the network."""

from __future__ import annotations

import logging
import threading
import time

from grpo_core.telemetry.delivery.delivery import Delivery, DeliveryError
from grpo_core.telemetry.events import Event

logger = logging.getLogger(__name__)

_FIRST_DELAY_S = 0.5  # a wrong key is said at once
_DELAY_S = 5.0  # OpenTelemetry's own: a request has costs of its own, so few of them carry many events
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0


class BackgroundSink:
    """Lets a delivery send what is in the file of events, from its own thread, so that ``write`` waits for nothing.

    The first events go out within half a second, later ones within ``max_delay_s``. A service that fails never breaks
    training, and costs no event: they are in the file, and are sent when the service
    is back, by this process or by a later one. The first failure is a warning, all later ones are silent. ``close``
    says what still waits, and ``instruction``, how to send it.
    """

    def __init__(
        self, delivery: Delivery, instruction: str, *, max_delay_s: float = _DELAY_S, close_timeout_s: float = 20.0
    ) -> None:
        self._delivery = delivery
        self._instruction = instruction
        self._max_delay_s = max_delay_s
        self._delay_s = min(_FIRST_DELAY_S, max_delay_s)
        self._close_timeout_s = close_timeout_s
        self._changed = threading.Condition()
        self._num_written = 0
        self._num_seen = 0  # of the events written, those that were in the file when sending last began
        self._is_sending = False
        self._num_flushes = 0  # threads that wait in flush
        self._closing = False
        self._has_warned = False
        self._pause_s = 0.0  # the last one between two tries; 0 when the service works
        self._paused_until_s = 0.0
        self._not_before_s = 0.0  # what the service asked for
        self._thread = threading.Thread(target=self._run, name=f"telemetry-{delivery.name}", daemon=True)
        self._thread.start()

    def write(self, event: Event) -> None:
        """The event must be in the file already. No lock: one thread at a time writes, and the others only read."""
        self._num_written += 1

    def flush(self) -> None:
        with self._changed:
            self._num_flushes += 1
            self._changed.notify_all()
            self._changed.wait_for(self._is_sent, self._close_timeout_s)
            self._num_flushes -= 1

    def begin_close(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    def close(self) -> None:
        self.begin_close()
        self._thread.join(self._close_timeout_s)
        if num_waiting := self._delivery.num_waiting:
            logger.warning(
                "%s: %d events are still to be sent; send them with: %s",
                self._delivery.name,
                num_waiting,
                self._instruction,
            )
        if self._delivery.num_refused:
            logger.warning("%s: %d events were refused", self._delivery.name, self._delivery.num_refused)

    def _run(self) -> None:
        while self._wait():
            self._send()
        if time.monotonic() >= self._not_before_s:
            self._send()  # what was written since; also after a pause of our own
        try:
            self._delivery.close()
        except DeliveryError as error:
            logger.warning("%s: %s", self._delivery.name, error)

    def _wait(self) -> bool:
        """Wait until there is something to send. False when the sink is being closed."""
        with self._changed:
            while not self._closing:
                pause_s = self._paused_until_s - time.monotonic()
                self._changed.wait_for(self._is_urgent, pause_s if pause_s > 0 else self._delay_s)
                if self._num_written > self._num_seen and time.monotonic() >= self._paused_until_s:
                    break
            return not self._closing

    def _send(self) -> None:
        """Send all that is in the file."""
        with self._changed:
            self._num_seen, self._is_sending = self._num_written, True
        try:
            while self._delivery.send_next():
                pass
            self._pause_s, self._delay_s = 0.0, self._max_delay_s
        except DeliveryError as error:
            self._fail(error)
        with self._changed:
            self._is_sending = False
            self._changed.notify_all()

    def _fail(self, error: DeliveryError) -> None:
        if not self._has_warned:
            self._has_warned = True
            logger.warning("%s: %s; training goes on, and the events wait in their file", self._delivery.name, error)
        self._pause_s = min(max(2 * self._pause_s, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)
        with self._changed:
            self._num_seen = -1  # there is something to send, also if nothing more comes
            self._not_before_s = time.monotonic() + error.retry_after_s
            self._paused_until_s = max(self._not_before_s, time.monotonic() + self._pause_s)

    def _is_urgent(self) -> bool:
        if time.monotonic() < self._paused_until_s:
            return self._closing
        return self._closing or (self._num_flushes > 0 and self._num_written > self._num_seen)

    def _is_sent(self) -> bool:
        """Whether all is sent, or the service is away."""
        is_away = time.monotonic() < self._paused_until_s
        return is_away or (not self._is_sending and self._num_seen >= self._num_written)
