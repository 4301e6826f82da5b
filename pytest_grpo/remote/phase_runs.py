"""Runs phases on workers, several at once, and retries lost ones: every test gets a result or a reason."""

from __future__ import annotations

import queue
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace

from pytest_grpo.remote.protocol import Call, Event, Remote, RemoteLostError, RemoteRefusedError, Request

POLL_INTERVAL_S = 0.5
END_TIMEOUT_S = 10
USAGE_ERROR = 4
"""pytest's exit code for a usage error."""


@dataclass(slots=True)
class _Attempt:
    """The progress of one worker."""

    running: str | None = None
    """The test that has started and not ended."""
    has_collected: bool = False
    has_finished: bool = False
    end: Event | None = None

    def note(self, event: Event) -> str | None:
        """Record ``event``; returns the test that it ends, if any."""
        kind = event["event"]
        if kind == "start":
            self.running = event["nodeid"]
        elif kind == "collected":
            self.has_collected = True
        elif kind == "begun":
            self.running = None
        elif kind == "finish":
            self.has_finished = True
        elif kind == "end":
            self.end = event
        elif kind == "done":
            self.running = None
            return event["nodeid"]
        return None


class PhaseRuns:
    """Starts phases and yields their events as (phase, event), in order of arrival.

    Two events are added to those of ``remote.protocol``: ``lost`` with ``node_ids`` and the ``reason`` why they have no
    result, and ``refused`` with the ``reason`` why the session must stop.
    """

    def __init__(self, remote: Remote, num_retries: int) -> None:
        self._remote = remote
        self._num_retries = num_retries
        self._events: queue.SimpleQueue[tuple[int, Event]] = queue.SimpleQueue()
        self._threads = ThreadPoolExecutor(remote.max_side_by_side, thread_name_prefix="grpo-phase")
        self._futures: list[Future[None]] = []
        self._calls: dict[int, Call] = {}
        self._is_cancelled = False

    def start(self, requests: Sequence[Request]) -> None:
        self._futures += [self._threads.submit(self._run, request) for request in requests]

    def next_events(self) -> Iterator[tuple[int, Event]]:
        """The events since the last call; waits up to ``POLL_INTERVAL_S`` for one."""
        try:
            yield self._events.get(timeout=POLL_INTERVAL_S)
            while True:
                yield self._events.get_nowait()
        except queue.Empty:
            for future in self._futures:
                if future.done():
                    future.result()  # a bug of this module ends the session

    def let_end(self) -> None:
        """All tests have results: give the workers time to run the last hooks of their sessions."""
        wait(self._futures, timeout=END_TIMEOUT_S)

    def cancel(self) -> None:
        """Cancel all running phases, and wait for their end."""
        self._is_cancelled = True
        for call in list(self._calls.values()):
            call.cancel()
        self._threads.shutdown(cancel_futures=True)
        self._remote.close()

    def _run(self, request: Request) -> None:
        remaining = dict.fromkeys(request.node_ids)
        num_losses = 0
        while remaining and not self._is_cancelled:
            attempt = _Attempt()
            try:
                self._attempt(replace(request, node_ids=tuple(remaining)), attempt, remaining)
            except RemoteRefusedError as error:
                return self._put(request, {"event": "refused", "reason": str(error)})
            except RemoteLostError as error:
                num_losses += 1
                if num_losses > self._num_retries or not error.may_retry:
                    return self._lose(request, list(remaining), f"{error}{_times(num_losses)}")
                text = f"lost: {error}; starting again ({num_losses} of {self._num_retries})"
                self._put(request, {"event": "state", "text": text})
                continue
            assert attempt.end is not None, "the last event is end"
            if attempt.end["exit_code"] == USAGE_ERROR and not attempt.has_collected:
                return self._put(request, {"event": "refused", "reason": _usage_error(request, attempt.end)})
            reason = f"pytest ended there with exit code {attempt.end['exit_code']}"
            tail = f"\n{attempt.end['output_tail']}"
            if attempt.has_finished or attempt.running is None:
                if remaining:
                    self._lose(request, list(remaining), reason + tail)
                return None
            # The test killed its process and would do so again. The tests after it run in a new process.
            del remaining[attempt.running]
            self._lose(request, [attempt.running], f"{reason} while it ran{tail}")
        return None

    def _attempt(self, request: Request, attempt: _Attempt, remaining: dict[str, None]) -> None:
        call = self._calls[request.phase] = self._remote.start(request)
        if self._is_cancelled:
            call.cancel()
        for event in call:
            ended = attempt.note(event)
            if ended is not None:
                remaining.pop(ended, None)
            self._put(request, event)

    def _lose(self, request: Request, node_ids: list[str], reason: str) -> None:
        self._put(request, {"event": "lost", "node_ids": node_ids, "reason": reason})

    def _put(self, request: Request, event: Event) -> None:
        self._events.put((request.phase, event))


def _usage_error(request: Request, end: Event) -> str:
    lines = [line for line in end["output_tail"].splitlines() if line.startswith("ERROR: ")]
    what = lines[-1].removeprefix("ERROR: ") if lines else end["output_tail"].strip()
    return f"phase {request.phase}: {what}"


def _times(num_losses: int) -> str:
    return f" ({num_losses} times)" if num_losses > 1 else ""
