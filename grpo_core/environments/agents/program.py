"""The program that plays an agent's episodes, and one run of it: an episode."""

from __future__ import annotations

from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, Protocol

from grpo_core.environments.agents.endpoint import Call, Endpoint, Inbox, Over


class ProgramRun:
    """A program while it plays one episode. ``call`` is the one that waits for an answer."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.call: Call | None = None
        self.outcome: Future[Any] = Future()
        """What the program returns, or raises."""
        self._inbox: Inbox = SimpleQueue()
        self._endpoint = endpoint
        self.base_url = endpoint.open(self._inbox)

    def begin(self, outcome: Future[Any]) -> None:
        """The program plays from now on, and ``outcome`` will hold what it returns."""
        self.outcome = outcome
        outcome.add_done_callback(self._end)

    def wait(self, max_wait_s: float) -> None:
        """Wait for a ``call``, or for the end, unless there is one.

        Raises:
            queue.Empty: neither came in time.
        """
        if self.call is None and not self.outcome.done():
            found = self._inbox.get(timeout=max_wait_s)
            self.call = found if isinstance(found, Call) else None

    def answer(self, text: str) -> None:
        """Let the program go on."""
        assert self.call is not None
        call, self.call = self.call, None
        call.answer(text)

    def give_up(self) -> None:
        """Refuse what the program asks, and cancel it where it can be."""
        self._endpoint.forget(self.base_url)
        if self.call is not None:
            self.call.answer(None)
        self.outcome.cancel()

    def let_go(self) -> None:
        """Give up, from a finalizer."""
        self._endpoint.call_later(self.give_up)

    def _end(self, _: Future[Any]) -> None:
        self._endpoint.forget(self.base_url)
        self._inbox.put(Over())


class Program(Protocol):
    """Plays tasks by number. ``name`` is for messages, and tells its snapshots from those of others."""

    @property
    def name(self) -> str: ...

    @property
    def num_tasks(self) -> int: ...

    def start(self, task: int) -> ProgramRun:
        """Begin ``task``. The program asks at the episode's ``base_url``, from another thread."""
        ...

    def reward(self, outcome: Any) -> float:
        """The reward of a program that ended with ``outcome``.

        Raises:
            EnvironmentCodeError: it has none.
        """
        ...
