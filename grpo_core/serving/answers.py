"""What clients get, in the words of OpenAI's API."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Literal

from grpo_core.environments.agents.messages import as_delta, assistant_message
from grpo_core.model.tokenizer import Tokenizer
from grpo_core.serving.stops import Stops
from grpo_core.types import Completion

Kind = Literal["chat.completion", "text_completion"]


@dataclass(frozen=True, slots=True)
class Writer:
    """Writes the answers to one request. With ``with_calls`` the request offers tools: calls are read out of the text,
    and a stream holds the text back: what will be a call is no text before."""

    kind: Kind
    identity: str
    model: str
    tokenizer: Tokenizer
    with_calls: bool
    with_logprobs: bool
    with_ids: bool
    stops: Stops
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, completions: Sequence[Completion]) -> dict[str, Any]:
        """The answer that is not streamed. All ``completions`` have one prompt."""
        choices = [{"index": index, **self._choice(each)} for index, each in enumerate(completions)]
        ids = {"prompt_token_ids": completions[0].prompt_ids.tolist()} if self.with_ids else {}
        return {**self._head(self.kind), "choices": choices, "usage": usage(completions), **ids}

    def part(self, index: int, text: str) -> str:
        """A part of the stream: ``text`` of choice ``index`` since its last part."""
        content = (
            {"delta": {"role": "assistant", "content": text}} if self.kind == "chat.completion" else {"text": text}
        )
        return self._event([{"index": index, **content, "finish_reason": None}])

    def last_part(self, index: int, completion: Completion) -> str:
        """The end of choice ``index``, with its text where that was held back."""
        whole = self._choice(completion)
        if self.kind == "text_completion":
            return self._event([{"index": index, **whole, "text": ""}])
        message = whole.pop("message")
        return self._event([{"index": index, "delta": as_delta(message) if self.with_calls else {}, **whole}])

    def end(self, completions: Sequence[Completion]) -> Iterator[str]:
        """What follows the last choice."""
        yield self._event([], usage=usage(completions))
        yield "data: [DONE]\n\n"

    def _event(self, choices: Sequence[Mapping[str, Any]], **more: Any) -> str:
        name = "chat.completion.chunk" if self.kind == "chat.completion" else self.kind
        return f"data: {json.dumps({**self._head(name), 'choices': choices, **more})}\n\n"

    def _head(self, name: str) -> dict[str, Any]:
        return {"id": self.identity, "object": name, "created": self.created, "model": self.model}

    def _choice(self, completion: Completion) -> dict[str, Any]:
        text = self.stops.before(self.tokenizer.decode(completion.completion_ids))
        found: dict[str, Any] = {"finish_reason": completion.finish_reason, "logprobs": None}
        if self.kind == "chat.completion":
            found["message"] = assistant_message(text) if self.with_calls else {"role": "assistant", "content": text}
            if "tool_calls" in found["message"]:
                found["finish_reason"] = "tool_calls"
        else:
            found["text"] = text
        if self.with_logprobs:
            found["logprobs"] = self._logprobs(completion)
        if self.with_ids:
            found["token_ids"] = completion.completion_ids.tolist()
        return found

    def _logprobs(self, completion: Completion) -> dict[str, Any]:
        texts = [self.tokenizer.decode([token], keep_special=True) for token in completion.completion_ids.tolist()]
        values = completion.sampling_logprobs.tolist()
        if self.kind == "text_completion":
            offsets = [0, *accumulate(map(len, texts[:-1]))][: len(texts)]
            return {"tokens": texts, "token_logprobs": values, "top_logprobs": None, "text_offset": offsets}
        pairs = zip(texts, values, strict=True)
        return {
            "content": [
                {"token": text, "logprob": value, "bytes": list(text.encode()), "top_logprobs": []}
                for text, value in pairs
            ]
        }


def usage(completions: Sequence[Completion]) -> dict[str, int]:
    prompt, drawn = len(completions[0].prompt_ids), sum(len(each.completion_ids) for each in completions)
    return {"prompt_tokens": prompt, "completion_tokens": drawn, "total_tokens": prompt + drawn}


def failure(message: str, kind: str = "invalid_request_error") -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}
