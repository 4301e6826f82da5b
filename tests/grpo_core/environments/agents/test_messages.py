"""Tool calls as text, and as OpenAI's messages."""

from __future__ import annotations

import json

import pytest

from grpo_core.environments.agents.messages import assistant_message, for_template, is_answer


def test_calls_are_taken_out_of_the_text() -> None:
    first, second = {"name": "add", "arguments": {"a": 1, "b": {"c": "}"}}}, {"name": "now"}
    text = f"Well.\n<tool_call>\n{json.dumps(first)}\n</tool_call>\n<tool_call>{json.dumps(second)}</tool_call>"
    message = assistant_message(text)
    assert message["content"] == "Well."
    functions = [call["function"] for call in message["tool_calls"]]
    assert [(each["name"], json.loads(each["arguments"])) for each in functions] == [
        ("add", first["arguments"]),
        ("now", {}),
    ]
    assert len({call["id"] for call in message["tool_calls"]}) == 2


def test_what_cannot_be_read_stays_text() -> None:
    for text in (
        "no call",
        "<tool_call>{'name': 1}</tool_call>",
        '<tool_call>{"arguments": {}}</tool_call>',
        "",
        "\n a\n",
    ):
        assert assistant_message(text) == {"role": "assistant", "content": text}


def test_templates_get_tables_of_arguments() -> None:
    call = {"id": "a", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    asked = {"role": "assistant", "content": None, "tool_calls": [call]}
    (message,) = for_template([asked])
    assert message["content"] == ""
    assert message["tool_calls"][0]["function"]["arguments"] == {"a": 1}
    assert asked["content"] is None
    assert call["function"]["arguments"] == '{"a": 1}'


CALL = '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'


@pytest.mark.parametrize("text", ["four", " four\n", "", "\n", f"Well.\n{CALL}", f" {CALL}\n"])
def test_an_answer_is_known_when_it_is_sent_back(text: str) -> None:
    """As the message that was given, as plain text where no tools were offered, or with its blanks cut."""
    given = assistant_message(text)
    for message in (given, {"role": "assistant", "content": text}, given | {"content": given["content"].strip()}):
        (read,) = for_template([message])
        assert is_answer(read, text)


def test_a_call_with_other_arguments_is_another_answer() -> None:
    (read,) = for_template([assistant_message(CALL)])
    assert not is_answer(read, CALL.replace('"a": 1', '"a": 2'))


@pytest.mark.parametrize("text", ["five", CALL])
def test_another_message_is_no_answer(text: str) -> None:
    message = {"role": "assistant", "content": "four"}
    assert not is_answer(message, text)
    assert not is_answer({**message, "role": "user", "content": text}, text)
