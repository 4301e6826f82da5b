"""Chats through a model's own template: the ids of a prompt, and those between a sampled answer and the next one.

What was sampled is never written as text and tokenized again: a template may leave its thinking out, and text has other
tokens than those that were drawn. Of a chat that goes on, the earlier ids stay, and what the template writes behind an
answer is appended.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, TemplateSyntaxError, nodes
from jinja2.ext import Extension
from jinja2.meta import find_undeclared_variables
from jinja2.parser import Parser
from transformers import PreTrainedTokenizerBase

from grpo_core.errors import ConfigError, PromptError
from grpo_core.types import Message

Tool = Mapping[str, Any]
"""A function that the policy may call, as OpenAI describes it: ``{"type": "function", "function": {...}}``."""

_OWN_NAMES = frozenset(
    ("messages", "conversation", "tools", "tokenize", "add_generation_prompt", "continue_final_message")
)
"""What is said here of every chat: no argument may change it."""
_ANY_TEMPLATE = frozenset(("chat_template", "tokenizer_kwargs", "documents"))
"""What ``apply_chat_template`` takes, whatever the template reads."""
_GIVEN = frozenset(("raise_exception", "strftime_now", *_ANY_TEMPLATE, *_OWN_NAMES))

_MARKER = "GRPO0ANSWER0MARKER"
"""Stands for an answer, so that what the template writes behind it can be found."""


class ChatTemplate:
    """The chat template of ``tokenizer``, with ``arguments`` such as ``enable_thinking``."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, arguments: Mapping[str, Any]) -> None:
        """
        Raises:
            ConfigError: the template has no argument of such a name.
        """
        self._tokenizer = tokenizer
        self._arguments = dict(arguments)
        parsed = _parsed(tokenizer.chat_template) if arguments else None
        allowed = None if parsed is None else _names_in(parsed) | _ANY_TEMPLATE
        for name in arguments:
            if name in _OWN_NAMES or (allowed is not None and name not in allowed):
                known = "" if parsed is None else f"; it has {', '.join(_arguments_of(parsed)) or 'none'}"
                raise ConfigError(
                    f"rollout.chat_template_arguments.{name}: the model's chat template has no such argument{known}; "
                    "leave it out, or mend its name"
                )

    def prompt(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> str:
        """The text that the policy continues. A last message of the assistant is the beginning of its answer.

        Raises:
            PromptError: there is no template, or it does not take these messages or arguments.
        """
        begins_answer = messages[-1]["role"] == "assistant"
        return self._render(
            messages, tools, add_generation_prompt=not begins_answer, continue_final_message=begins_answer
        )

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


class _Generation(Extension):
    """``{% generation %}``, with which templates mark the assistant's tokens."""

    tags: set[str] = {"generation"}  # noqa: RUF012  # as jinja2 declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _parsed(template: Any) -> nodes.Template | None:
    """None where there is no template, or several, or it has tags of its own."""
    if not isinstance(template, str):
        return None
    try:
        return Environment(extensions=["jinja2.ext.loopcontrols", _Generation]).parse(template)
    except TemplateSyntaxError:
        return None


def _names_in(template: nodes.Template) -> set[str]:
    """All but those of loops and macros."""
    bound = [*(loop.target for loop in template.find_all(nodes.For)), *template.find_all(nodes.Macro)]
    inner = {name.name for node in bound for name in _targets(node)}
    return {name.name for name in template.find_all(nodes.Name)} - inner


def _targets(node: nodes.Node) -> list[nodes.Name]:
    if isinstance(node, nodes.Macro):
        return node.args
    return [node] if isinstance(node, nodes.Name) else list(node.find_all(nodes.Name))


def _arguments_of(template: nodes.Template) -> list[str]:
    """The names that it reads and never sets, and those that it sets where they are not given."""
    own = {name.name for name in template.find_all(nodes.Name) if name.ctx == "store"}
    asked = [test.node for test in template.find_all(nodes.Test) if test.name in ("defined", "undefined")]
    asked += [found.node for found in template.find_all(nodes.Filter) if found.name in ("default", "d")]
    names = (find_undeclared_variables(template) - own) | {node.name for node in asked if isinstance(node, nodes.Name)}
    return sorted(name for name in names & _names_in(template) - _GIVEN if not name.endswith("_token"))
