"""An episode of verifiers, turn by turn: each call of its program is an observation."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from queue import Empty, Queue
from typing import Any

from grpo_core.environments.verifiers.endpoint import Call, Inbox
from grpo_core.environments.verifiers.session import Session
from grpo_core.environments.verifiers.tool_calls import for_template
from grpo_core.errors import EnvironmentCodeError, InvalidActionError
from grpo_core.types import Message, Observation

AGENT = "agent"
MAX_WAIT_S = 600.0
"""For the next call of a program, or its end."""


class VerifiersEnvironment:
    """``reset`` takes the number of a task. There is no opening, and a snapshot is that of a start."""

    in_opening = False

    def __init__(self, session: Session) -> None:
        self._session = session
        self._playing: Future[Any] | None = None
        self._call: Call | None = None
        self._index = 0

    @property
    def done(self) -> bool:
        return self._next() is None

    def reset(self, seed: int) -> None:
        self._begin(seed % len(self._session.tasks))

    def observe(self) -> tuple[Observation, ...]:
        call = self._next()
        if call is None:
            return ()
        return (Observation(AGENT, messages=self._as_said(call), tools=tuple(call.tools)),)

    def step(self, actions: Mapping[str, str]) -> None:
        if AGENT not in actions:
            raise InvalidActionError(f"no answer for {AGENT!r}, only for {sorted(actions)}; answer for {AGENT!r}")
        call = self._next()
        assert call is not None, "the episode is done"
        self._said.append((len(call.messages), actions[AGENT]))
        self._call = None
        call.answer(actions[AGENT])

    def rewards(self) -> Mapping[str, float]:
        """What the package made of the episode, unchanged: the weighted sum of its rewards."""
        if self._next() is not None:
            return {AGENT: 0.0}
        assert self._playing is not None
        (trace,) = self._playing.result().traces
        return {AGENT: float(trace.reward)}

    def snapshot(self) -> dict[str, Any]:
        return {"environment": "verifiers", "task": self._index}

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        if snapshot.get("environment") != "verifiers" or not 0 <= snapshot["task"] < len(self._session.tasks):
            raise InvalidActionError(
                f"snapshot {dict(snapshot)}: not one of these {len(self._session.tasks)} tasks; make a new one with "
                "snapshot()"
            )
        self._begin(snapshot["task"])

    def _begin(self, index: int) -> None:
        """Start the program; its calls are awaited later, so that those of siblings start together."""
        self._give_up()
        self._index = index
        self._said: list[tuple[int, str]] = []
        self._inbox: Inbox = Queue()
        self._playing = self._session.start(index, self._inbox)

    def _give_up(self) -> None:
        if self._playing is not None and not self._playing.done():
            if self._call is not None:
                self._call.answer(None)
            self._playing.cancel()
        self._call = None

    def _next(self) -> Call | None:
        """The call that waits for an answer; None once the episode is over.

        Raises:
            EnvironmentCodeError: the program failed, or asked nothing in time.
        """
        assert self._playing is not None, "reset it first"
        if self._call is None and not self._playing.done():
            try:
                found = self._inbox.get(timeout=MAX_WAIT_S)
            except Empty:
                raise EnvironmentCodeError(
                    f"task {self._index} of verifiers: no call within {MAX_WAIT_S:g} s; mend its program"
                ) from None
            self._call = found if isinstance(found, Call) else None
        if self._call is None:
            self._check_ended()
        return self._call

    def _check_ended(self) -> None:
        assert self._playing is not None
        episode = self._playing.result()
        errors = [*episode.errors, *(error for trace in episode.traces for error in trace.errors)]
        if errors:
            last = " ".join(errors[-1].message.split())
            raise EnvironmentCodeError(f"task {self._index} of verifiers failed: {errors[-1].type}: {last[-300:]}")
        if len(episode.traces) != 1:
            raise EnvironmentCodeError(
                f"task {self._index} of verifiers: {len(episode.traces)} agents played; one alone can be trained"
            )

    def _as_said(self, call: Call) -> list[Message]:
        """The messages of ``call``, each answer as the policy wrote it: so the tokens that were sampled stay."""
        messages = for_template(call.messages)
        for place, text in self._said:
            if place < len(messages) and messages[place]["role"] == "assistant":
                messages[place] = {"role": "assistant", "content": text}
        return messages
