"""Turns requests into completions of one engine, and writes down what was drawn."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from grpo_core.config import GrpoConfig
from grpo_core.errors import ConfigError
from grpo_core.model.tokenizer import Tokenizer
from grpo_core.rollout.protocol import GenerationRequest, SamplingParams
from grpo_core.rollout.streaming import Progress, StreamingEngine
from grpo_core.serving.bodies import GREEDY, Body, ChatBody, TextBody
from grpo_core.serving.chats import Chats
from grpo_core.serving.stops import Stops
from grpo_core.types import Completion, Int32, Message

_MAX_SEED = (1 << 63) - 1


class Service:
    """Answers with the engine of ``streaming``. What a request leaves out is as in ``config``."""

    def __init__(self, config: GrpoConfig, streaming: StreamingEngine, tokenizer: Tokenizer, record: Record) -> None:
        self.tokenizer = tokenizer
        self._config = config.rollout
        self._streaming = streaming
        self._record = record
        self._chats = Chats(tokenizer, config.rollout)

    def chat(self, body: ChatBody) -> tuple[list[GenerationRequest], list[Message]]:
        """Its requests, and its messages as the policy wrote its part of them.

        Raises:
            PromptError: the model's chat template does not take the messages.
        """
        ids, messages = self._chats.ids(body.messages, body.tools or ())
        max_tokens = body.max_completion_tokens or body.max_tokens
        return self._requests(body, ids, max_tokens, self._chats.stop_ids), messages

    def text(self, body: TextBody) -> list[GenerationRequest]:
        if isinstance(body.prompt, str):
            ids = self.tokenizer.encode_prompt(body.prompt)
        else:
            ids = np.array(body.prompt, dtype=np.int64).astype(np.int32)
        return self._requests(body, ids, body.max_tokens, ())

    def _requests(
        self, body: Body, ids: Int32, max_tokens: int | None, stop_ids: tuple[int, ...]
    ) -> list[GenerationRequest]:
        defaults = self._config
        first = secrets.randbits(62) if body.seed is None else body.seed
        is_greedy = body.temperature == GREEDY
        top_k = defaults.top_k if body.top_k is None else max(body.top_k, 0)
        return [
            GenerationRequest(
                ids,
                SamplingParams(
                    (first + index) & _MAX_SEED,
                    temperature=1.0 if is_greedy else _or(body.temperature, defaults.temperature),
                    top_p=_or(body.top_p, defaults.top_p),
                    top_k=1 if is_greedy else top_k,
                    min_p=_or(body.min_p, defaults.min_p),
                    max_tokens=max_tokens or defaults.max_completion_tokens,
                    stop_ids=stop_ids,
                ),
            )
            for index in range(body.n)
        ]

    async def complete(self, requests: Sequence[GenerationRequest], stops: Stops) -> list[Completion]:
        """All of them, or what is wrong with the first that fails."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._streaming.complete(request)) for request in requests]
        return [stops.cut(task.result(), self.tokenizer) for task in tasks]

    async def stream(self, requests: Sequence[GenerationRequest], stops: Stops) -> AsyncGenerator[tuple[int, Progress]]:
        """What each of them draws, with its number, as it comes."""
        queue: asyncio.Queue[tuple[int, Progress | Exception]] = asyncio.Queue()
        tasks = [asyncio.create_task(self._put(queue, number, request)) for number, request in enumerate(requests)]
        num_left = len(tasks)
        try:
            while num_left:
                number, item = await queue.get()
                if isinstance(item, Exception):
                    raise item
                if item.completion is not None:
                    num_left -= 1
                    item = replace(item, completion=stops.cut(item.completion, self.tokenizer))
                yield number, item
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _put(
        self, queue: asyncio.Queue[tuple[int, Progress | Exception]], number: int, request: GenerationRequest
    ) -> None:
        try:
            async with aclosing(self._streaming.stream(request)) as items:
                async for item in items:
                    queue.put_nowait((number, item))
        except Exception as error:  # whoever reads the stream raises it
            queue.put_nowait((number, error))

    def keep(
        self, identity: str, completions: Sequence[Completion], stops: Stops, messages: list[Message] | None = None
    ) -> None:
        """Write ``completions`` down; those of a chat are known when it goes on. Not one that a stop has cut: its ids
        say more than the client got."""
        for completion in completions:
            text = self.tokenizer.decode(completion.completion_ids)
            if messages is not None and not stops.are_in(text):
                self._chats.remember(messages, text, completion)
            self._record.write(identity, completion)


def _or(given: float | None, default: float) -> float:
    return default if given is None else given


class Record:
    """A file with a JSON object per completion: its ids and log-probabilities. Without ``path`` nothing is written."""

    def __init__(self, path: Path | None) -> None:
        """
        Raises:
            ConfigError: ``path`` cannot be written.
        """
        self._file: int | None = None
        if path is not None:
            try:
                self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            except OSError as error:
                raise ConfigError(f"--record {path}: {error.strerror}; name a file in a folder that is there") from None

    def write(self, identity: str, completion: Completion) -> None:
        if self._file is None:
            return
        line: dict[str, Any] = {
            "time": time.time(),
            "id": identity,
            "policy_version": completion.policy_version,
            "temperature": completion.temperature,
            "finish_reason": completion.finish_reason,
            "prompt_ids": completion.prompt_ids.tolist(),
            "completion_ids": completion.completion_ids.tolist(),
            "logprobs": completion.sampling_logprobs.tolist(),
        }
        with suppress(OSError):  # a full disk ends no answer
            os.write(self._file, json.dumps(line).encode() + b"\n")

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
