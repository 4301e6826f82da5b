"""Tool calls as text, and as OpenAI's messages."""

from __future__ import annotations

import json

from grpo_core.environments.agents.messages import assistant_message, for_template


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
    for text in ("no call", "<tool_call>{'name': 1}</tool_call>", '<tool_call>{"arguments": {}}</tool_call>', ""):
        assert assistant_message(text) == {"role": "assistant", "content": text}


def test_templates_get_tables_of_arguments() -> None:
    call = {"id": "a", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    asked = {"role": "assistant", "content": None, "tool_calls": [call]}
    (message,) = for_template([asked])
    assert message["content"] == ""
    assert message["tool_calls"][0]["function"]["arguments"] == {"a": 1}
    assert asked["content"] is None
    assert call["function"]["arguments"] == '{"a": 1}'
