"""Messages of OpenAI's API, and what chat templates read and policies write of them.

A policy writes a tool call as ``<tool_call>{"name": ..., "arguments": {...}}</tool_call>``, the form of Hermes, Qwen2.5
and Qwen3, which their chat templates ask for.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from grpo_core.types import Message

_CALL = re.compile(r"<tool_call>\s*(\{.*?\})\s*</tool_call>", re.DOTALL)


def read_messages(messages: Sequence[Any]) -> list[Message]:
    """``messages`` as a client sends them, the content of each as one text.

    Raises:
        ValueError: there are none, or one has no role, or content that is no text.
    """
    if not messages:
        raise ValueError("messages: there are none; give one at least")
    return [_read(message, place) for place, message in enumerate(messages)]


def _read(message: Any, place: int) -> Message:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise ValueError(f"messages.{place}: not a table with a role")
    content = message.get("content")
    if content is None or isinstance(content, str):
        return message
    match content:
        case list() if all(isinstance(part, Mapping) and isinstance(part.get("text"), str) for part in content):
            return {**message, "content": "".join(part["text"] for part in content)}
    raise ValueError(f"messages.{place}.content: only text is read here, as a string or in parts")


def assistant_message(text: str) -> dict[str, Any]:
    """``text`` as an OpenAI message of the assistant: its own text, or what stands around its calls. What is no call
    that can be read stays in the content."""
    calls: list[dict[str, Any]] = []

    def taken(found: re.Match[str]) -> str:
        try:
            call = json.loads(found[1])
            given = call.get("arguments") or {}
            arguments = given if isinstance(given, str) else json.dumps(given)
            function = {"name": str(call["name"]), "arguments": arguments}
        except (ValueError, KeyError, TypeError):
            return found[0]
        calls.append({"id": f"call_{secrets.token_hex(8)}", "type": "function", "function": function})
        return ""

    rest = _CALL.sub(taken, text)
    if not calls:
        return {"role": "assistant", "content": text}
    return {"role": "assistant", "content": rest.strip(), "tool_calls": calls}


def as_delta(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """``message`` as a part of a stream, where tool calls have a number."""
    calls = [{**call, "index": index} for index, call in enumerate(message.get("tool_calls", ()))]
    return {**message, "tool_calls": calls} if calls else message


def is_answer(message: Message, text: str) -> bool:
    """Whether ``message``, as ``for_template`` gives it, is the answer ``text`` that a program sends back: as it is, or
    with its calls read, perhaps without the blanks around it."""
    (read,) = for_template([assistant_message(text)])
    return message["role"] == "assistant" and any(
        message["content"].strip() == given["content"].strip() and _called(message) == _called(given)
        for given in (read, {"content": text})
    )


def _called(message: Message) -> list[tuple[Any, Any]]:
    calls: Sequence[Mapping[str, Any]] = message.get("tool_calls") or ()
    return [(call["function"]["name"], call["function"].get("arguments")) for call in calls]


def for_template(messages: Sequence[Message]) -> list[Message]:
    """``messages`` as chat templates read them: the arguments of tool calls are tables, and no content is missing."""
    return [_readable(message) for message in messages]


def _readable(message: Message) -> Message:
    changed = {**message, "content": message.get("content") or ""}
    calls: Sequence[Mapping[str, Any]] = message.get("tool_calls") or ()
    if calls:
        changed["tool_calls"] = [{**call, "function": _with_table(call["function"])} for call in calls]
    return changed


def _with_table(function: Mapping[str, Any]) -> dict[str, Any]:
    arguments = function.get("arguments")
    try:
        return {**function, "arguments": json.loads(arguments) if isinstance(arguments, str) else arguments}
    except ValueError:  # a program's own
        return dict(function)
