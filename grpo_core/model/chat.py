"""Chats through a model's own template: the ids of a prompt, and those between a sampled answer and the next one.

What was sampled is never written as text and tokenized again: a template may leave its thinking out, and text has other
tokens than those that were drawn. Of a chat that goes on, the earlier ids stay, and what the template writes behind an
answer is appended.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from grpo_core.errors import PromptError
from grpo_core.model.template_arguments import check_arguments
from grpo_core.types import Message

Tool = Mapping[str, Any]
"""A function that the policy may call, as OpenAI describes it: ``{"type": "function", "function": {...}}``."""

_MARKER = "GRPO0ANSWER0MARKER"
"""Stands for what a message says, so that it can be found in what the template writes."""
_MAX_SOUND_ROLES = 1024


class ChatTemplate:
    """The chat template of ``tokenizer``, with ``arguments`` such as ``enable_thinking``."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, arguments: Mapping[str, Any]) -> None:
        """
        Raises:
            ConfigError: as ``check_arguments``.
        """
        self._tokenizer = tokenizer
        self._arguments = dict(arguments)
        self._sound_roles: set[tuple[str, ...]] = set()  # of chats that the template writes whole
        check_arguments(tokenizer.chat_template, arguments)

    def prompt(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> str:
        """The text that the policy continues. A last message of the assistant is the beginning of its answer.

        Raises:
            PromptError: there is no template, or it does not take these messages or arguments, or leaves a message out.
        """
        begins_answer = messages[-1]["role"] == "assistant"
        how = {"add_generation_prompt": not begins_answer, "continue_final_message": begins_answer}
        text = self._render(messages, tools, **how)
        self._check_nothing_is_left_out(messages, tools, how)
        return text

    def between(self, messages: Sequence[Message], answer_index: int, tools: Sequence[Tool] = ()) -> str:
        """What stands between the answer ``messages[answer_index]`` and the next one, its end of turn included.

        Raises:
            PromptError: as ``prompt``.
        """
        marked = [dict(message) for message in messages]
        marked[answer_index] = {"role": "assistant", "content": _MARKER}
        return self._behind_marker(self._render(marked, tools, add_generation_prompt=True))

    @property
    def key(self) -> str:
        """The template's own text and its arguments: what decides, besides the messages, how a prompt is written."""
        return json.dumps([self._tokenizer.chat_template, self._arguments], sort_keys=True)

    @property
    def special_ids(self) -> frozenset[int]:
        """The tokens that stand for no text, such as the ends of turns."""
        return frozenset(self._tokenizer.added_tokens_decoder)

    def end_of_turn(self) -> int | None:
        """The special token that the template ends an answer with; None where it ends none."""
        if self._tokenizer.chat_template is None:
            return None
        asked = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _MARKER}]
        text = self._behind_marker(self._render(asked, (), add_generation_prompt=False))
        special = self.special_ids
        ids = self._tokenizer.encode(text, add_special_tokens=False)
        return next((token for token in ids if token in special), None)

    def _check_nothing_is_left_out(
        self, messages: Sequence[Message], tools: Sequence[Tool], how: Mapping[str, bool]
    ) -> None:
        """A template writes nothing of a role that it does not know, such as a misspelt one, and some write no tool
        calls: the policy would not read them. Looks once at each order of roles. What an assistant says may be left
        out: some templates do so where it calls a tool.
        """
        roles = (*(_role(message) for message in messages), *("tools" for _ in tools[:1]))
        if roles in self._sound_roles:
            return
        marked, expected = _mark(messages)
        text = self._render(marked, tools, **how)
        for marker, part in expected.items():
            if marker not in text:
                raise PromptError(f"the model's chat template leaves out {part}")
        if len(self._sound_roles) >= _MAX_SOUND_ROLES:
            self._sound_roles.clear()
        self._sound_roles.add(roles)

    def _behind_marker(self, text: str) -> str:
        _, found, behind = text.rpartition(_MARKER)
        if not found:
            raise PromptError("the model's chat template leaves the assistant's answer out; use prompts that are texts")
        return behind

    def _render(self, messages: Sequence[Message], tools: Sequence[Tool], **how: bool) -> str:
        if self._tokenizer.chat_template is None:
            raise PromptError(
                "messages need a chat template, and the model's tokenizer has none; use one for chats, or prompts that "
                "are texts"
            )
        try:
            text = self._tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                tools=[dict(tool) for tool in tools] or None,
                tokenize=False,
                **how,
                **self._arguments,
            )
        except Exception as error:  # templates raise whatever they like
            roles = ", ".join(str(message.get("role")) for message in messages)
            raise PromptError(
                f"the model's chat template does not take these messages (roles {roles}): "
                f"{' '.join(str(error).split())[:200]}; change them, or rollout.chat_template_arguments"
            ) from error
        assert isinstance(text, str)
        return text


def _role(message: Message) -> str:
    calls = _calls(message)
    return f"{message['role']} with {len(calls)} calls" if calls else message["role"]


def _calls(message: Message) -> Sequence[Mapping[str, Any]]:
    """The tool calls of ``message``; none where it has something else in their place, which the template judges."""
    calls = message.get("tool_calls")
    return calls if isinstance(calls, list | tuple) and all(isinstance(call, Mapping) for call in calls) else ()


def _mark(messages: Sequence[Message]) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """``messages`` with a marker for each text and each called function; by marker, what to say where it is missing."""
    marked = [dict(message) for message in messages]
    expected: dict[str, str] = {}
    for index, message in enumerate(marked):
        place = f"message {index + 1} (role {message['role']!r})"
        content = message.get("content")
        if message["role"] != "assistant" and isinstance(content, str) and content.strip():
            message["content"] = f"{_MARKER}{index}X"
            expected[message["content"]] = f"{place}; use a role that it knows, such as 'user', or another template"
        if calls := _calls(message):
            markers = [f"{_MARKER}{index}C{number}X" for number in range(len(calls))]
            message["tool_calls"] = [_renamed(call, marker) for call, marker in zip(calls, markers, strict=True)]
            advice = "write the call as it should be read into the content, or use a template for tools"
            expected |= dict.fromkeys(markers, f"a tool call of {place}; {advice}")
    return marked, expected


def _renamed(call: Mapping[str, Any], name: str) -> dict[str, Any]:
    """``call`` of a function called ``name``, in OpenAI's form or without the level ``function``."""
    function = call.get("function")
    if isinstance(function, Mapping):
        return {**call, "function": {**function, "name": name}}
    return {**call, "name": name}
