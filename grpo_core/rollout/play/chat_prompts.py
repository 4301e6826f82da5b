"""The prompts of chats: rendered once, and continued with the ids that were sampled."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from grpo_core.config import RolloutConfig
from grpo_core.model.chat import Tool
from grpo_core.model.tokenizer import Tokenizer
from grpo_core.rollout.play.episode import ChatTurn
from grpo_core.types import Int32, Message


class ChatPrompts:
    """Turns messages into ids [P] with the model's chat template and the run's arguments for it."""

    def __init__(self, tokenizer: Tokenizer, config: RolloutConfig) -> None:
        self._tokenizer = tokenizer
        self._template = tokenizer.chat(config.chat_template_arguments)
        self._rendered = lru_cache(maxsize=1024)(self._render)
        self._end_of_turn = lru_cache(maxsize=1)(self._template.end_of_turn)

    @property
    def template_key(self) -> str:
        """As ``ChatTemplate.key``."""
        return self._template.key

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """What ends an answer besides the tokenizer's and the model's own ids."""
        end = self._end_of_turn()
        return () if end is None or end in self._tokenizer.stop_ids else (end,)

    def ids(self, messages: Sequence[Message], last: ChatTurn | None, tools: Sequence[Tool] = ()) -> Int32:
        """The ids of ``messages``. Where these go on from the ``last`` turn, its ids stay as they were.

        Raises:
            PromptError: the template does not take the messages.
        """
        if last is not None and _goes_on(messages, last):
            return self._continued(messages, last, tools)
        return self._rendered(json.dumps([[dict(message) for message in messages], [dict(tool) for tool in tools]]))

    def _render(self, chat: str) -> Int32:
        return self._tokenizer.encode(self._template.prompt(*json.loads(chat)))

    def _continued(self, messages: Sequence[Message], last: ChatTurn, tools: Sequence[Tool]) -> Int32:
        said = last.completion.completion_ids
        between = self._tokenizer.encode(self._template.between(messages, len(last.messages), tools))
        if len(said) and int(said[-1]) in (*self._tokenizer.stop_ids, *self.stop_ids):
            # It ended its turn itself: the end that the template writes, its first special token, would come twice.
            own = np.flatnonzero(np.isin(between, list(self._template.special_ids)))
            between = between[own[0] + 1 :] if len(own) else between
        return np.concatenate([last.completion.prompt_ids, said, between])


def _goes_on(messages: Sequence[Message], last: ChatTurn) -> bool:
    """Whether ``messages`` are those of ``last``, then its answer, then something new."""
    num = len(last.messages)
    if len(messages) <= num + 1 or list(messages[:num]) != list(last.messages):
        return False
    answer = messages[num]
    return answer["role"] == "assistant" and str(answer.get("content")).strip() == last.answer.strip()
