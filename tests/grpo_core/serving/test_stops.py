"""Texts that end an answer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from grpo_core.serving.stops import Stops
from tests.grpo_core.serving.conftest import Client

TEXT, CHAT = "/v1/completions", "/v1/chat/completions"
HELLO = [{"role": "user", "content": "Hello"}]
LONG: dict[str, Any] = {"max_tokens": 24, "return_token_ids": True, "temperature": 1}


@pytest.mark.parametrize(
    ("stops", "text", "before", "settled"),
    [
        ((), "any text", "any text", "any text"),
        (("\nObs:",), "Act\nObs: 3", "Act", "Act"),
        (("\nObs:",), "Act\nOb", "Act\nOb", "Act"),
        (("\nObs:",), "Act\nOx", "Act\nOx", "Act\nOx"),
        (("ab", "b"), "xab", "x", "x"),
        (("aab",), "xaa", "xaa", "x"),
        (("aab", "zz"), "xaaz", "xaaz", "xaa"),
        (("a",), "a", "", ""),
    ],
)
def test_a_text_goes_as_far_as_it_is_sure(stops: tuple[str, ...], text: str, before: str, settled: str) -> None:
    assert Stops(stops).before(text) == before
    assert Stops(stops).settled(text) == settled


def a_text_within(client: Client, **body: Any) -> tuple[Any, str]:
    """An answer with at least four letters, and two neighbours from its middle, for a seed of its own."""
    for seed in range(40):
        (choice,) = client.ask(TEXT, **LONG, **body, seed=seed)["choices"]
        text = choice["text"]
        if len(text) > 3 and text.isprintable() and text.isascii():
            return choice | {"seed": seed}, text[len(text) // 2 :][:2]
    raise AssertionError("no readable answer")


def test_an_answer_ends_before_the_first_stop(client: Client) -> None:
    whole, stop = a_text_within(client, prompt="1 + 1 =")
    body = {**LONG, "prompt": "1 + 1 =", "seed": whole["seed"], "logprobs": 1}
    answer = client.ask(TEXT, **body, stop=["never said", stop])
    (choice,) = answer["choices"]
    ids = choice["token_ids"]
    assert choice["text"] == whole["text"].partition(stop)[0]
    assert choice["finish_reason"] == "stop"
    assert ids == whole["token_ids"][: len(ids)]
    assert stop in client.tokenizer.decode(ids)
    assert stop not in client.tokenizer.decode(ids[:-1])
    assert len(choice["logprobs"]["token_logprobs"]) == len(ids) == answer["usage"]["completion_tokens"]
    assert client.ask(TEXT, **body, stop="never said")["choices"][0]["text"] == whole["text"]
    *_, kept = [json.loads(line) for line in client.record.read_text().splitlines()][:-1]
    assert kept["completion_ids"] == ids


def test_a_stream_says_nothing_that_a_stop_takes_back(client: Client) -> None:
    whole, stop = a_text_within(client, prompt="2 + 2 =")
    body = {**LONG, "prompt": "2 + 2 =", "seed": whole["seed"], "stop": [stop]}
    (expected,) = client.ask(TEXT, **body)["choices"]
    parts = [part for event in client.stream(TEXT, **body) for part in event["choices"]]
    assert "".join(part["text"] for part in parts) == expected["text"]
    assert (parts[-1]["finish_reason"], parts[-1]["token_ids"]) == ("stop", expected["token_ids"])


def test_a_chat_that_a_stop_has_cut_goes_on_from_what_the_client_got(client: Client) -> None:
    seeds = range(40)
    wholes = (client.ask(CHAT, **LONG, messages=HELLO, seed=seed) for seed in seeds)
    seed, text = next(
        (seed, content)
        for seed, whole in zip(seeds, wholes, strict=True)
        if len(content := whole["choices"][0]["message"]["content"]) > 3 and content.isascii() and content.isprintable()
    )
    stop = text[len(text) // 2 :][:2]
    answer = client.ask(CHAT, **LONG, messages=HELLO, seed=seed, stop=stop)
    message = answer["choices"][0]["message"]
    assert message["content"] == text.partition(stop)[0]
    on = client.ask(CHAT, messages=[*HELLO, message, *HELLO], return_token_ids=True)
    said = client.tokenizer.decode(on["prompt_token_ids"], keep_special=True)
    assert said.startswith(f"[user]Hello<|endoftext|>[assistant]{message['content']}<|endoftext|>")


@pytest.mark.parametrize("stop", [[""], "", ["a"] * 17, "a" * 1025, [3], 3, {"a": 1}])
def test_what_is_no_stop_is_one_line(client: Client, stop: object) -> None:
    status, content = client.post(TEXT, {"prompt": "Hello", "stop": stop})
    message = json.loads(content)["error"]["message"]
    assert status == 400
    assert message.startswith("stop")
    assert "\n" not in message
