"""The ids of chats that clients send: where one goes on from an answer of ours, the ids that were sampled stay."""

from __future__ import annotations

import json
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from typing import Any

from grpo_core.config import RolloutConfig
from grpo_core.environments.agents.messages import for_template, is_answer
from grpo_core.model.tokenizer import Tokenizer
from grpo_core.rollout.play.chat_prompts import ChatPrompts
from grpo_core.rollout.play.episode import ChatTurn
from grpo_core.types import Completion, Int32, Message

MAX_CHATS = 4096
MAX_ANSWERS = 64


class Chats:
    """Remembers the last ``MAX_ANSWERS`` answers to each of the last ``MAX_CHATS`` chats. For one thread."""

    def __init__(self, tokenizer: Tokenizer, config: RolloutConfig) -> None:
        self._prompts = ChatPrompts(tokenizer, config)
        self._turns: OrderedDict[str, deque[ChatTurn]] = OrderedDict()

    @property
    def stop_ids(self) -> tuple[int, ...]:
        return self._prompts.stop_ids

    def ids(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> tuple[Int32, list[Message]]:
        """The ids of ``messages``, and the messages as the policy wrote its part of them.

        Raises:
            PromptError: the model's chat template does not take them.
        """
        said = for_template(messages)
        last: ChatTurn | None = None
        for place in range(len(said)):
            turn = self._turn(said[:place], said[place])
            if turn is not None:
                said[place], last = {"role": "assistant", "content": turn.answer}, turn
        return self._prompts.ids(said, last, tools), said

    def remember(self, messages: Sequence[Message], answer: str, completion: Completion) -> None:
        """``answer`` is the text of ``completion``, which goes on from ``messages`` as ``ids`` returned them."""
        key = json.dumps(list(messages))
        self._turns.setdefault(key, deque(maxlen=MAX_ANSWERS)).append(ChatTurn(messages, answer, completion))
        self._turns.move_to_end(key)
        if len(self._turns) > MAX_CHATS:
            self._turns.popitem(last=False)

    def _turn(self, before: Sequence[Message], message: Message) -> ChatTurn | None:
        if message["role"] != "assistant":
            return None
        turns = reversed(self._turns.get(json.dumps(list(before)), ()))
        found = [turn for turn in turns if is_answer(message, turn.answer)]
        return next((turn for turn in found if turn.answer == message["content"]), found[0] if found else None)
