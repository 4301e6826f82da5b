"""Chats in episodes: two turns, one prefix, and a tokenizer without a template."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from grpo_core.config import EnvironmentConfig
from grpo_core.environments import ConfiguredFactory
from grpo_core.errors import PromptError
from grpo_core.types import Message, Observation
from tests.grpo_core.rollout.play.rooms import TINY, Rooms

TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}<|endoftext|>{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


class Interview:
    """Asks twice; the answer to the first question stands before the second one."""

    in_opening = False

    def __init__(self) -> None:
        self.messages: list[Message] = []

    @property
    def done(self) -> bool:
        return len(self.messages) == 5

    def reset(self, seed: int) -> None:
        self.messages = [{"role": "user", "content": f"{seed % 7}?"}]

    def observe(self) -> tuple[Observation, ...]:
        return () if self.done else (Observation("speaker", messages=tuple(self.messages)),)

    def step(self, actions: Mapping[str, str]) -> None:
        self.messages += [{"role": "assistant", "content": actions["speaker"]}, {"role": "user", "content": "more?"}]

    def rewards(self) -> Mapping[str, float]:
        return {"speaker": float(len(str(self.messages)))}

    def snapshot(self) -> dict[str, Any]:
        return {"messages": [dict(message) for message in self.messages]}

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        self.messages = list(snapshot["messages"])


FACTORY = ConfiguredFactory(EnvironmentConfig(), "interview", lambda _: Interview())


def test_the_second_prompt_begins_with_what_was_sampled(rooms: Rooms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms.tokenizer._tokenizer, "chat_template", TEMPLATE)
    batch = rooms.collector(FACTORY, TINY).collect(0)
    for trajectory in (trajectory for group in batch.groups for trajectory in group.trajectories):
        first, second = trajectory.turns
        before = [*first.prompt_ids.tolist(), *first.completion_ids.tolist()]
        assert second.prompt_ids.tolist()[: len(before)] == before
        rest = rooms.tokenizer._tokenizer.decode(second.prompt_ids[len(before) :])
        end = "" if first.finish_reason == "stop" else "<|endoftext|>"
        assert rest == f"{end}[user]more?<|endoftext|>[assistant]"


TOOL = {"type": "function", "function": {"name": "add", "description": "Add.", "parameters": {}}}


class WithTools(Interview):
    def observe(self) -> tuple[Observation, ...]:
        return tuple(replace(observation, tools=(TOOL,)) for observation in super().observe())


def test_tools_are_shown_by_the_template(rooms: Rooms, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = "{% for tool in tools or [] %}[{{ tool.function.name }}]{% endfor %}"
    monkeypatch.setattr(rooms.tokenizer._tokenizer, "chat_template", shown + TEMPLATE)
    factory = ConfiguredFactory(EnvironmentConfig(), "with tools", lambda _: WithTools())
    batch = rooms.collector(factory, TINY).collect(0)
    for trajectory in (trajectory for group in batch.groups for trajectory in group.trajectories):
        first, second = (str(rooms.tokenizer._tokenizer.decode(turn.prompt_ids)) for turn in trajectory.turns)
        assert first.startswith("[add][user]")
        assert second.startswith(first)
        assert second.count("[add]") == 1


def test_messages_without_a_template_are_refused_in_one_line(rooms: Rooms) -> None:
    with pytest.raises(PromptError, match="messages need a chat template, and the model's tokenizer has none") as error:
        rooms.collector(FACTORY, TINY).collect(0)
    assert "\n" not in str(error.value)
