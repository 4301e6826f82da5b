"""One question of a data set per episode, answered in one turn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from grpo_core.config import DataConfig
from grpo_core.environments.dataset.rows import Rows
from grpo_core.errors import InvalidActionError
from grpo_core.types import Message, Observation

AGENT = "solver"


class DatasetEnvironment:
    """``reset`` takes the row, counted from 0. What an answer earns is found for the whole batch at once, by the reward
    functions (``grpo_core.environments.dataset.rewards``); the environment itself gives nothing."""

    in_opening = False

    def __init__(self, rows: Rows, config: DataConfig) -> None:
        self._rows = rows
        self._config = config
        self.reset(0)

    @property
    def done(self) -> bool:
        return self._answer is not None

    @property
    def row(self) -> int:
        """Counted from 0."""
        return self._row

    @property
    def columns(self) -> dict[str, Any]:
        """What else the row has: all but the prompt."""
        values = self._rows[self._row]
        return {name: values.get(name) for name in self._rows.columns if name != self._config.prompt_column}

    @property
    def prompt(self) -> str | list[Message]:
        """What the policy reads: a text, or messages."""
        prompt: str | list[Message] = self._rows[self._row][self._config.prompt_column]
        if isinstance(prompt, str):
            if not self._config.as_chat:
                return prompt
            prompt = [{"role": "user", "content": prompt}]
        system = self._config.system_prompt
        has_own = any(message["role"] == "system" for message in prompt)
        return list(prompt) if system is None or has_own else [{"role": "system", "content": system}, *prompt]

    @property
    def tools(self) -> list[Mapping[str, Any]]:
        """The functions that the chat template shows."""
        column = self._config.tools_column
        return [] if column is None else self._rows[self._row][column]

    @property
    def completion(self) -> str | list[Message]:
        """The answer in the form of the prompt: a text, or the assistant's message."""
        assert self._answer is not None, "not answered yet"
        is_text = isinstance(self.prompt, str)
        return self._answer if is_text else [{"role": "assistant", "content": self._answer}]

    def reset(self, seed: int) -> None:
        self._row = seed % len(self._rows)
        self._answer: str | None = None

    def observe(self) -> tuple[Observation, ...]:
        if self.done:
            return ()
        prompt = self.prompt
        if isinstance(prompt, str):
            return (Observation(AGENT, prompt),)
        return (Observation(AGENT, messages=prompt, tools=self.tools),)

    def step(self, actions: Mapping[str, str]) -> None:
        if AGENT not in actions:
            raise InvalidActionError(f"no answer for {AGENT!r}, only for {sorted(actions)}; answer for {AGENT!r}")
        self._answer = actions[AGENT]

    def rewards(self) -> Mapping[str, float]:
        return {AGENT: 0.0}

    def snapshot(self) -> dict[str, Any]:
        return {"environment": "dataset", "row": self._row, "answer": self._answer}

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        if snapshot.get("environment") != "dataset" or not 0 <= snapshot["row"] < len(self._rows):
            raise InvalidActionError(
                f"snapshot {dict(snapshot)}: not one of these {len(self._rows)} rows; make a new one with snapshot()"
            )
        self._row, self._answer = snapshot["row"], snapshot["answer"]
