"""A server of a model with a chat template, and a client of it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from grpo_core.config import build_config
from grpo_core.model.tokenizer import Tokenizer, load_tokenizer
from grpo_core.rollout.engines import open_engine_for
from grpo_core.rollout.protocol import LocalEngine
from grpo_core.serving.app import make_app
from grpo_core.serving.service import Record
from grpo_core.web.addresses import base_url, listen
from grpo_core.web.server import make_server
from tests.grpo_core.environments.agents.chats import chat_model

KEY = "the-key"


@dataclass(frozen=True)
class Client:
    """``record`` is the file that the server writes."""

    url: str
    tokenizer: Tokenizer
    engine: LocalEngine
    record: Path

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> tuple[int, bytes]:
        return self._send(Request(self.url + path, headers=dict(headers or {})))

    def post(self, path: str, body: object, headers: Mapping[str, str] | None = None) -> tuple[int, bytes]:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self._send(Request(self.url + path, content, {"Content-Type": "application/json", **(headers or {})}))

    def ask(self, path: str, **body: Any) -> Any:
        status, content = self.post(path, {"model": "policy", "temperature": 1, "max_tokens": 8, **body})
        assert status == 200, content
        return json.loads(content)

    def stream(self, path: str, **body: Any) -> list[Any]:
        """The events, without the last one."""
        status, content = self.post(path, {"max_tokens": 8, "stream": True, **body})
        assert status == 200, content
        *events, last = [line.removeprefix("data: ") for line in content.decode().split("\n\n") if line]
        assert last == "[DONE]"
        return [json.loads(event) for event in events]

    def _send(self, request: Request) -> tuple[int, bytes]:
        try:
            with urlopen(request, timeout=120) as answer:
                return answer.status, answer.read()
        except HTTPError as error:
            with error:
                return error.code, error.read()


@pytest.fixture(scope="module", params=[None])
def client(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Parametrised indirectly with a key, it asks for that."""
    folder = tmp_path_factory.mktemp("serving")
    config = build_config({"model": {"name": chat_model(folder), "device": "cpu"}})
    path = folder / "record.jsonl"
    tokenizer = load_tokenizer(config.model.name)
    engine = open_engine_for(config, tokenizer.stop_ids, None, folder / "store")
    with closing(Record(path)) as record, closing(engine), closing(listen("127.0.0.1", 0)) as listener:
        app = make_app(config, engine, tokenizer, "policy", request.param, record)
        server = make_server(app, has_lifespan=True)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield Client(base_url("127.0.0.1", listener), tokenizer, engine, path)
        server.should_exit = True
        thread.join()
