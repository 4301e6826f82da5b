"""An episode of an agent, turn by turn: each call of its program is an observation."""

from __future__ import annotations

from collections.abc import Mapping
from queue import Empty
from typing import Any

from grpo_core.environments.agents.endpoint import Call
from grpo_core.environments.agents.messages import for_template, is_answer
from grpo_core.environments.agents.program import Program, ProgramRun
from grpo_core.environments.user_code import described
from grpo_core.errors import EnvironmentCodeError, InvalidActionError
from grpo_core.types import Message, Observation

AGENT = "agent"
MAX_WAIT_S = 600.0
"""For the next call of a program, or its end."""


class AgentEnvironment:
    """``reset`` takes the number of a task. There is no opening, and a snapshot is that of a start."""

    in_opening = False

    def __init__(self, program: Program) -> None:
        self._program = program
        self._run: ProgramRun | None = None
        self._task = 0

    def __del__(self) -> None:
        if self._run is not None:  # a program must not wait for an environment that was replaced
            self._run.let_go()

    @property
    def done(self) -> bool:
        return self._next() is None

    def reset(self, seed: int) -> None:
        self._begin(seed % self._program.num_tasks)

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
        assert self._run is not None
        self._said.append((len(call.messages), actions[AGENT]))
        self._run.answer(actions[AGENT])

    def rewards(self) -> Mapping[str, float]:
        if self._next() is not None:
            return {AGENT: 0.0}
        assert self._run is not None
        return {AGENT: self._program.reward(self._run.outcome.result())}

    def snapshot(self) -> dict[str, Any]:
        return {"program": self._program.name, "task": self._task}

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        task = snapshot.get("task")
        is_own = snapshot.get("program") == self._program.name
        if not is_own or not isinstance(task, int) or not 0 <= task < self._program.num_tasks:
            raise InvalidActionError(
                f"snapshot {dict(snapshot)}: not one of the {self._program.num_tasks} tasks of {self._program.name}; "
                "make a new one with snapshot()"
            )
        self._begin(task)

    def _begin(self, task: int) -> None:
        """Start the program; its calls are awaited later, so that those of siblings start together."""
        if self._run is not None:
            self._run.give_up()
        self._task = task
        self._said: list[tuple[int, str]] = []
        self._run = self._program.start(task)

    def _next(self) -> Call | None:
        """The call that waits for an answer; None once the episode is over.

        Raises:
            EnvironmentCodeError: the program failed, or asked nothing in time.
        """
        run = self._run
        assert run is not None, "reset it first"
        try:
            run.wait(MAX_WAIT_S)
        except Empty:
            raise EnvironmentCodeError(f"{self._what()}: no call within {MAX_WAIT_S:g} s; fix its program") from None
        if run.call is None and (error := run.outcome.exception()) is not None:
            raise EnvironmentCodeError(f"{self._what()} failed with {described(error)}; fix its program") from error
        return run.call

    def _what(self) -> str:
        return f"task {self._task} of {self._program.name}"

    def _as_said(self, call: Call) -> list[Message]:
        """The messages of ``call``, each answer as the policy wrote it: so the tokens that were sampled stay."""
        messages = for_template(call.messages)
        for place, text in self._said:
            if place < len(messages) and is_answer(messages[place], text):
                messages[place] = {"role": "assistant", "content": text}
        return messages
