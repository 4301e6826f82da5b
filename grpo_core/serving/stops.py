"""The texts at which an answer ends, as a client names them."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, replace

from grpo_core.model.tokenizer import Tokenizer
from grpo_core.types import Completion


@dataclass(frozen=True, slots=True)
class Stops:
    """An answer ends before the first of ``texts``; without any, where the policy ends it."""

    texts: tuple[str, ...] = ()

    def are_in(self, text: str) -> bool:
        return any(stop in text for stop in self.texts)

    def before(self, text: str) -> str:
        """What a client gets of the whole ``text``."""
        return text[: min((text.index(stop) for stop in self.texts if stop in text), default=len(text))]

    def settled(self, text: str) -> str:
        """What a client gets of ``text`` while it grows: nothing that may be the beginning of a stop."""
        found = self.before(text)
        if found != text:
            return found
        begun = (size for stop in self.texts for size in range(1, len(stop)) if text.endswith(stop[:size]))
        return text[: len(text) - max(begun, default=0)]

    def cut(self, completion: Completion, tokenizer: Tokenizer) -> Completion:
        """``completion`` up to the token with which the first stop was whole."""
        ids = completion.completion_ids
        if not self.are_in(tokenizer.decode(ids)):
            return completion
        num = bisect_left(range(len(ids) + 1), True, key=lambda size: self.are_in(tokenizer.decode(ids[:size])))
        return replace(
            completion,
            completion_ids=ids[:num],
            completion_mask=completion.completion_mask[:num],
            sampling_logprobs=completion.sampling_logprobs[:num],
            finish_reason="stop",
        )
