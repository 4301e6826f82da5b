"""The prompts of a data set, before a model is loaded: one that it cannot read would end the run within an epoch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from grpo_core.config import RolloutConfig
from grpo_core.environments.dataset.source import DatasetFactory
from grpo_core.errors import ConfigError, PromptError
from grpo_core.model.tokenizer import Tokenizer
from grpo_core.rollout.play.chat_prompts import ChatPrompts

_MANY = 2
"""Lists of so many items or more have one form. One item is another: a template may write the first item only."""


def check_prompts(
    dataset: DatasetFactory, tokenizer: Tokenizer, config: RolloutConfig, max_context_tokens: int, key: str
) -> None:
    """Renders one chat of each form, and encodes only rows that may be too long: a token takes at least one byte.

    ``key`` is the setting that names the rows.

    Raises:
        ConfigError: the chat template does not take a row's messages, or leaves no room for an answer; names the row.
    """
    chats = ChatPrompts(tokenizer, config)
    environment = dataset()
    max_prompt_tokens = max_context_tokens - config.max_completion_tokens
    known_forms: set[object] = set()
    for row in range(len(dataset.rows)):
        environment.reset(row)
        prompt, tools = environment.prompt, environment.tools
        where = f"{key} {dataset.rows.source}, row {row + 1}"
        if tools and isinstance(prompt, str):
            raise _unread_tools(where, "a prompt that is a text")
        form = () if isinstance(prompt, str) else (*map(_form, prompt), *map(_tool_form, tools))
        is_new = bool(form) and form not in known_forms
        if not is_new and 2 * _num_bytes([prompt, tools]) <= max_prompt_tokens:  # half is left for what a template adds
            continue
        known_forms.add(form)
        try:
            ids = tokenizer.encode_prompt(prompt) if isinstance(prompt, str) else chats.ids(prompt, None, tools)
            leaves_tools_out = (
                bool(tools) and not isinstance(prompt, str) and np.array_equal(ids, chats.ids(prompt, None))
            )
        except PromptError as error:
            raise ConfigError(f"{where}: {error}") from error
        if leaves_tools_out:
            raise _unread_tools(where, "the model's chat template")
        if len(ids) > max_prompt_tokens:
            raise ConfigError(
                f"{where}: prompt of {len(ids)} tokens and up to {config.max_completion_tokens} to generate: the "
                f"model's context is {max_context_tokens} tokens; shorten or remove the row, ask for fewer tokens "
                "(rollout.max_completion_tokens), or take a model with a longer context"
            )


def _unread_tools(where: str, reader: str) -> ConfigError:
    return ConfigError(
        f"{where}: {reader} shows no tools; write them into the system message, and leave out "
        "environment.data.tools_column"
    )


def _tool_form(tool: Mapping[str, Any]) -> object:
    """The type of each field. The parameters differ from tool to tool, so they do not count."""
    return tuple((name, type(value).__name__) for name, value in sorted((tool.get("function") or tool).items()))


def _form(value: object) -> object:
    """What a template may take or not: the role, and of what kind each value of a message is, at any depth."""
    if isinstance(value, dict):
        own = value.get("role")
        return (own, *((name, _form(value[name])) for name in sorted(value)))
    if isinstance(value, list):
        return ("list", min(len(value), _MANY), *dict.fromkeys(map(_form, value)))
    return "empty" if value == "" else type(value).__name__


def _num_bytes(value: object) -> int:
    return len(json.dumps(value, ensure_ascii=False, default=str).encode())
