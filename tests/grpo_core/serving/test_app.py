"""The server, as clients of OpenAI's API ask it."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

from grpo_core.rollout.protocol import GenerationRequest, SamplingParams
from tests.grpo_core.serving.conftest import KEY, Client

HELLO = [{"role": "user", "content": "Hello"}]
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


def test_a_chat_is_answered_with_the_engines_own_tokens(client: Client) -> None:
    body = {"messages": HELLO, "seed": 5, "logprobs": True, "return_token_ids": True}
    answer = client.ask(CHAT, **body)
    (choice,) = answer["choices"]
    prompt = client.tokenizer.encode("[user]Hello<|endoftext|>[assistant]").tolist()
    assert answer["prompt_token_ids"] == prompt
    assert answer["model"] == "policy"
    ids = choice["token_ids"]
    assert choice["message"] == {"role": "assistant", "content": client.tokenizer.decode(ids)}
    assert answer["usage"] == {
        "prompt_tokens": len(prompt),
        "completion_tokens": len(ids),
        "total_tokens": len(prompt) + len(ids),
    }
    logprobs = [each["logprob"] for each in choice["logprobs"]["content"]]
    assert len(logprobs) == len(ids)
    assert client.ask(CHAT, **body)["choices"] == [choice]  # one seed, one answer
    kept = [json.loads(line) for line in client.record.read_text().splitlines()]
    assert {"id": answer["id"], "prompt_ids": prompt, "completion_ids": ids, "logprobs": logprobs}.items() <= kept[
        0
    ].items()
    assert client.record.stat().st_mode & 0o777 == 0o600


def test_a_chat_that_goes_on_keeps_the_tokens_that_were_sampled(client: Client) -> None:
    first = client.ask(CHAT, messages=HELLO, seed=11, return_token_ids=True)
    (choice,) = first["choices"]
    on = [*HELLO, {**choice["message"], "refusal": None}, {"role": "user", "content": "And?"}]
    second = client.ask(CHAT, messages=on, return_token_ids=True)
    sampled = first["prompt_token_ids"] + choice["token_ids"]
    assert second["prompt_token_ids"][: len(sampled)] == sampled
    third = client.ask(CHAT, messages=[*on, second["choices"][0]["message"], *HELLO], return_token_ids=True)
    sampled = second["prompt_token_ids"] + second["choices"][0]["token_ids"]
    assert third["prompt_token_ids"][: len(sampled)] == sampled
    other = [*HELLO, {"role": "assistant", "content": "Never said."}, {"role": "user", "content": "And?"}]
    text = client.tokenizer.decode(
        client.ask(CHAT, messages=other, return_token_ids=True)["prompt_token_ids"], keep_special=True
    )
    assert text == "[user]Hello<|endoftext|>[assistant]Never said.<|endoftext|>[user]And?<|endoftext|>[assistant]"


def test_greedy_is_the_most_probable(client: Client) -> None:
    greedy, again = (client.ask(TEXT, prompt="1 + 1 =", temperature=0, return_token_ids=True) for _ in range(2))
    assert greedy["choices"] == again["choices"]
    top_1 = client.ask(TEXT, prompt="1 + 1 =", top_k=1, return_token_ids=True)
    assert top_1["choices"] == greedy["choices"]


def test_a_text_is_continued_from_its_ids_as_well(client: Client) -> None:
    ids = client.tokenizer.encode("1 + 1 =").tolist()
    of_text, of_ids = (
        client.ask(TEXT, prompt=prompt, seed=3, n=3, logprobs=0, return_token_ids=True) for prompt in ("1 + 1 =", ids)
    )
    assert of_text["choices"] == of_ids["choices"]
    assert [choice["index"] for choice in of_text["choices"]] == [0, 1, 2]
    for choice in of_text["choices"]:
        assert choice["text"] == client.tokenizer.decode(choice["token_ids"])
        assert len(choice["logprobs"]["tokens"]) == len(choice["logprobs"]["text_offset"]) == len(choice["token_ids"])


@pytest.mark.parametrize(("path", "body"), [(CHAT, {"messages": HELLO}), (TEXT, {"prompt": "Hello"})])
def test_a_stream_has_the_whole_answer(client: Client, path: str, body: dict[str, Any]) -> None:
    settings: dict[str, Any] = {**body, "seed": 4, "temperature": 1, "n": 2, "return_token_ids": True}
    whole = client.ask(path, **settings)
    *events, last = client.stream(path, **settings)
    assert last["usage"] == whole["usage"]
    for choice in whole["choices"]:
        parts = [part for event in events for part in event["choices"] if part["index"] == choice["index"]]
        text = "".join(part["text"] if path == TEXT else part["delta"].get("content", "") for part in parts)
        assert text == (choice["text"] if path == TEXT else choice["message"]["content"])
        assert parts[-1]["finish_reason"] == choice["finish_reason"]
        assert parts[-1]["token_ids"] == choice["token_ids"]
        assert all(part["finish_reason"] is None for part in parts[:-1])


def test_blanks_around_an_answer_are_in_it_streamed_or_not(client: Client) -> None:
    """They are what was sampled, and what a reward function reads in training."""
    with_blanks = 0
    for seed in range(20):
        settings: dict[str, Any] = {"messages": HELLO, "seed": seed, "temperature": 1, "max_tokens": 8}
        content = client.ask(CHAT, **settings)["choices"][0]["message"]["content"]
        parts = [part for event in client.stream(CHAT, **settings) for part in event["choices"]]
        assert "".join(part["delta"].get("content", "") for part in parts) == content
        with_blanks += content != content.strip()
    assert with_blanks


def test_with_tools_a_stream_has_one_part(client: Client) -> None:
    tool = {"type": "function", "function": {"name": "add", "description": "Add.", "parameters": {}}}
    settings: dict[str, Any] = {"messages": HELLO, "seed": 4, "temperature": 1, "return_token_ids": True}
    whole = client.ask(CHAT, **settings, tools=[tool])
    assert client.tokenizer.decode(whole["prompt_token_ids"]).startswith("[add][user]Hello")
    event, _ = client.stream(CHAT, **settings, tools=[tool])
    assert event["choices"][0]["delta"] == whole["choices"][0]["message"]


@pytest.mark.parametrize(
    ("path", "body", "line"),
    [
        (CHAT, b"{", "Invalid JSON"),
        (CHAT, [], "Input should be an object"),
        (CHAT, {}, "messages: Field required"),
        (CHAT, {"messages": []}, "messages: there are none; give one at least"),
        (CHAT, {"messages": [{"content": "x"}]}, "messages.0: not a table with a role"),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content: only text"),
        (CHAT, {"messages": HELLO, "stop": [""]}, "stop.0: String should have at least 1 character"),
        (CHAT, {"messages": HELLO, "logit_bias": {"5": 1}}, "logit_bias: not supported"),
        (CHAT, {"messages": HELLO, "response_format": {"type": "json_object"}}, "response_format: not supported"),
        (CHAT, {"messages": HELLO, "frequency_penalty": 0.5}, "frequency_penalty: not supported"),
        (CHAT, {"messages": HELLO, "n": 0}, "n: Input should be greater than or equal to 1"),
        (CHAT, {"messages": HELLO, "n": 10**9}, "n: Input should be less than or equal to 64"),
        (CHAT, {"messages": HELLO, "temperature": -1}, "temperature: Input should be greater than or equal to 0"),
        (CHAT, {"messages": HELLO, "temperature": 1e-39}, "temperature"),
        (CHAT, {"messages": HELLO, "max_tokens": 10**9}, "up to 1000000000 to generate: the model's context is 4096"),
        (TEXT, {"prompt": [2**31 - 1]}, "2147483647"),
        (TEXT, {"prompt": []}, "prompt"),
        (TEXT, {"prompt": ""}, "prompt"),
        (TEXT, {"prompt": [-1]}, "greater than or equal to 0"),
        (TEXT, {"prompt": "x", "echo": True}, "echo"),
    ],
)
def test_what_is_refused_is_one_line(client: Client, path: str, body: object, line: str) -> None:
    status, content = client.post(path, body)
    message = json.loads(content)["error"]["message"]
    assert (status, line in message, "\n" in message, "Value error" in message) == (400, True, False, False), message
    assert client.ask(TEXT, prompt="still here")["choices"]


def test_what_changes_nothing_is_taken(client: Client) -> None:
    client.ask(CHAT, messages=HELLO, stop=[], frequency_penalty=0, response_format={"type": "text"}, user="me")


def test_other_places_name_the_allowed_ones(client: Client) -> None:
    assert json.loads(client.get("/v1/models")[1])["data"][0]["id"] == "policy"
    status, content = client.post("/v1/embeddings", {})
    assert status == 404
    assert "allowed are GET /v1/models, POST /v1/chat/completions" in json.loads(content)["error"]["message"]


@pytest.mark.parametrize("is_streamed", [True, False])
def test_a_client_that_goes_ends_its_request(
    client: Client, is_streamed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors: list[str] = []
    monkeypatch.setattr(logging.getLogger("uvicorn.error"), "error", lambda line, *_, **__: errors.append(line))
    before = client.engine.counters
    body = json.dumps({"prompt": "Hello", "max_tokens": 400, "stream": is_streamed, "temperature": 1e6}).encode()
    where = urlsplit(client.url)
    head = f"POST {TEXT} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
    assert where.port is not None
    with socket.create_connection(("127.0.0.1", where.port)) as connection:
        connection.sendall(head.encode() + body)
        while client.engine.counters.num_requests == before.num_requests:
            time.sleep(0.001)
    while (after := client.engine.counters - before).num_cancelled + after.num_failed == 0:
        if after.num_completion_tokens:  # it was faster than the news
            break
        time.sleep(0.001)
    assert client.ask(TEXT, prompt="still here")["choices"]
    assert errors == []


def test_many_clients_share_the_engine(client: Client) -> None:
    """Each gets what it would get alone."""
    settings = [{"prompt": f"{number} + 1 =", "seed": number, "return_token_ids": True} for number in range(12)]
    alone = [client.ask(TEXT, **each)["choices"] for each in settings]
    together: list[Any] = [None] * len(settings)

    def ask(number: int) -> None:
        together[number] = client.ask(TEXT, **settings[number])["choices"]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(settings))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone


def test_log_probabilities_are_the_engines(client: Client) -> None:
    ids = client.tokenizer.encode_prompt("1 + 1 =")
    answer = client.ask(TEXT, prompt="1 + 1 =", seed=9, logprobs=0, return_token_ids=True)
    (choice,) = answer["choices"]
    request = GenerationRequest(ids, SamplingParams(9, max_tokens=8))
    assert answer["prompt_token_ids"] == request.prompt_ids.tolist()
    kept = json.loads(client.record.read_text().splitlines()[-1])
    assert np.allclose(kept["logprobs"], choice["logprobs"]["token_logprobs"])
    assert max(kept["logprobs"]) <= 0


@pytest.mark.parametrize("headers", [{"Origin": "http://evil.example"}, {"Host": "evil.example"},
                                     {"Sec-Fetch-Site": "cross-site"}])  # fmt: skip
def test_pages_and_other_names_are_refused(client: Client, headers: dict[str, str]) -> None:
    assert client.get("/v1/models", headers)[0] == 403
    assert client.post(TEXT, {"prompt": "x"}, headers)[0] == 403


@pytest.mark.parametrize("client", [KEY], indirect=True)
def test_with_a_key_only_who_has_it_may_ask(client: Client) -> None:
    assert client.get("/v1/models")[0] == 401
    assert client.get("/v1/models", {"Authorization": "Bearer other"})[0] == 401
    assert client.get("/v1/models", {"Authorization": f"Bearer {KEY}", "Host": "a.name"})[0] == 200
