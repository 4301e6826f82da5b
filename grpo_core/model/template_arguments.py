"""The arguments of a chat template, such as ``enable_thinking``: which it has, and which are a misspelling."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from jinja2 import Environment, TemplateSyntaxError, nodes
from jinja2.ext import Extension
from jinja2.meta import find_undeclared_variables
from jinja2.parser import Parser

from grpo_core.errors import ConfigError

_SET_HERE = frozenset(
    ("messages", "conversation", "tools", "tokenize", "add_generation_prompt", "continue_final_message")
)
"""``ChatTemplate`` sets them for every chat."""
_OF_TRANSFORMERS = frozenset(("chat_template", "tokenizer_kwargs", "documents"))
"""``apply_chat_template`` takes them, whatever the template reads."""
_GIVEN = _SET_HERE | _OF_TRANSFORMERS | {"raise_exception", "strftime_now"}
"""Names in a template that are no arguments of its own."""


def check_arguments(template: Any, arguments: Collection[str]) -> None:
    """Check that ``template`` has all ``arguments``. Where it cannot be parsed, those that it may have pass.

    Raises:
        ConfigError: it has no argument of such a name.
    """
    parsed = _parsed(template) if arguments else None
    allowed = None if parsed is None else _names_in(parsed) | _OF_TRANSFORMERS
    for name in arguments:
        if name in _SET_HERE or (allowed is not None and name not in allowed):
            known = "" if parsed is None else f"; it has {', '.join(_arguments_of(parsed)) or 'none'}"
            raise ConfigError(
                f"rollout.chat_template_arguments.{name}: the model's chat template has no such argument{known}; "
                "leave it out, or correct its name"
            )


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
