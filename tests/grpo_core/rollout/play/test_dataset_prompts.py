"""Rows that a model cannot read are found before it is loaded."""

from __future__ import annotations

from typing import Any

import pytest

from grpo_core.config import DataConfig, RolloutConfig
from grpo_core.environments.dataset.rewards import Rewards
from grpo_core.environments.dataset.rows import Rows
from grpo_core.environments.dataset.source import DatasetFactory
from grpo_core.errors import ConfigError
from grpo_core.model.tokenizer import Tokenizer, load_tokenizer
from grpo_core.rollout.play.dataset_prompts import check_prompts

CHATML = (
    "{% for m in messages %}{% if m.role in ('system', 'user', 'assistant') %}[{{ m.role }}]{{ m.content.strip() }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)

CALLS = [{"type": "function", "function": {"name": "weather", "arguments": {"city": "Bern"}}}]


@pytest.fixture
def tokenizer(monkeypatch: pytest.MonkeyPatch) -> Tokenizer:
    tokenizer = load_tokenizer("tiny")
    monkeypatch.setattr(tokenizer._tokenizer, "chat_template", CHATML)
    return tokenizer


def check(
    tokenizer: Tokenizer,
    *prompts: Any,
    system_prompt: str | None = None,
    max_context_tokens: int = 100,
    tools: list[dict[str, Any]] | None = None,
) -> None:
    values = [{"prompt": prompt, "tools": tools or []} for prompt in prompts]
    config = DataConfig(path="q.jsonl", rewards=("m:f",), system_prompt=system_prompt, tools_column="tools")
    dataset = DatasetFactory(config, Rows("q.jsonl", ("prompt",), values), Rewards((), 1.0))
    check_prompts(dataset, tokenizer, RolloutConfig(max_completion_tokens=20), max_context_tokens, "the.path")


def said(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def test_what_the_model_can_read_passes(tokenizer: Tokenizer) -> None:
    turns = [said("user", " a? "), said("assistant", ""), said("user", "b?"), said("assistant", "I")]
    check(tokenizer, "2 + 2 =", [said("user", "a?")], turns, system_prompt=None)
    check(tokenizer, [said("user", "a?")], [said("system", "own"), said("user", "a?")], system_prompt="Be brief.")


@pytest.mark.parametrize(
    ("prompt", "line"),
    [
        ([said("usr", "a?")], "the model's chat template leaves out message 1 (role 'usr'); use a role that it knows"),
        ([said("user", "a?"), said("tool", "4")], "leaves out message 2 (role 'tool')"),
        (
            [said("user", "a?"), said("assistant", "") | {"tool_calls": CALLS}, said("user", "b?")],
            "the model's chat template leaves out a tool call of message 2 (role 'assistant'); write the call as it",
        ),
        ([said("user", {"text": 1})], "the model's chat template does not take these messages (roles user): "),
        ("9 " * 300, "tokens and up to 20 to generate: the model's context is 100 tokens; shorten or remove the row"),
        ([said("user", "9 " * 300)], "tokens and up to 20 to generate: the model's context is 100 tokens"),
    ],
)
def test_a_row_that_it_cannot_read_is_named(tokenizer: Tokenizer, prompt: Any, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check(tokenizer, "2 + 2 =", [said("user", "a?")], prompt)

    assert str(caught.value).startswith("the.path q.jsonl, row 3: ")
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


WITH_CALLS = CHATML.replace(
    "{{ m.content.strip() }}",
    "{{ m.content.strip() }}{% for call in m.tool_calls %}{{ (call.function or call).name }}({{ (call.function or call)"
    ".arguments | tojson }}){% endfor %}",
)


@pytest.mark.parametrize("calls", [CALLS, [call["function"] for call in CALLS]], ids=["openai", "flat"])
def test_tool_calls_that_the_template_writes_pass(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, calls: list[dict[str, Any]]
) -> None:
    monkeypatch.setattr(tokenizer._tokenizer, "chat_template", WITH_CALLS)
    check(tokenizer, [said("user", "a?"), said("assistant", "") | {"tool_calls": calls}, said("user", "b?")])


@pytest.mark.parametrize("content", [["a part"], {"text": 1}, None])
def test_a_chat_of_another_form_is_rendered_though_its_roles_are_known(tokenizer: Tokenizer, content: Any) -> None:
    with pytest.raises(ConfigError, match=r"^the\.path q\.jsonl, row 2: the model's chat template "):
        check(tokenizer, [said("user", "a?")], [said("user", content) | {"name": "Ann"}])


def test_only_what_may_be_too_long_is_encoded(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[str] = []
    monkeypatch.setattr(tokenizer, "encode_prompt", lambda text: (encoded.append(text), tokenizer.encode(text))[1])
    check(tokenizer, *("2 + 2 =" for _ in range(50)), "9" * 41)
    assert encoded == ["9" * 41]


TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]


@pytest.mark.parametrize(
    ("prompt", "reader"), [([said("user", "a?")], "the model's chat template"), ("a?", "a prompt that is a text")]
)
def test_tools_that_nobody_would_read_are_refused(tokenizer: Tokenizer, prompt: Any, reader: str) -> None:
    with pytest.raises(ConfigError, match=rf"^the\.path q\.jsonl, row 1: {reader} shows no tools; write them into"):
        check(tokenizer, prompt, tools=TOOLS, max_context_tokens=2048)


@pytest.mark.parametrize("calls", [5, "weather", {"name": "weather"}, ["weather"]])
def test_what_is_no_list_of_calls_is_left_to_the_template(tokenizer: Tokenizer, calls: Any) -> None:
    check(tokenizer, [said("user", "a?"), said("assistant", "b") | {"tool_calls": calls}, said("user", "c?")])


@pytest.mark.parametrize("num_calls", [(1, 2), (2, 1)])
def test_a_second_call_that_the_template_leaves_out_is_found(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, num_calls: tuple[int, int]
) -> None:
    first_only = WITH_CALLS.replace("m.tool_calls %}", "(m.tool_calls or [])[:1] %}")
    monkeypatch.setattr(tokenizer._tokenizer, "chat_template", first_only)
    chats = [
        [said("user", "a?"), said("assistant", "") | {"tool_calls": CALLS * num}, said("user", "b?")]
        for num in num_calls
    ]
    row = 1 + num_calls.index(2)
    with pytest.raises(ConfigError, match=rf"row {row}: the model's chat template leaves out a tool call of message 2"):
        check(tokenizer, *chats, max_context_tokens=2048)


def test_tools_that_the_template_writes_count_as_tokens(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer._tokenizer, "chat_template", "{{ tools | tojson if tools }}" + CHATML)
    check(tokenizer, [said("user", "a?")], tools=TOOLS, max_context_tokens=300)
    with pytest.raises(ConfigError, match=r"row 1: prompt of \d+ tokens and up to 20 to generate"):
        check(tokenizer, [said("user", "a?")], tools=TOOLS, max_context_tokens=40)
