"""Turns observations into engine requests: tokenized prompts and constraints."""

from __future__ import annotations

import json
from functools import cached_property, lru_cache
from hashlib import sha256

from grpo_core.config import RolloutConfig
from grpo_core.model.tokenizer import Tokenizer
from grpo_core.rollout.constraints.line_tokens import LineTokens
from grpo_core.rollout.constraints.lines import Constraint
from grpo_core.rollout.constraints.regex import compile_regex
from grpo_core.rollout.play.chat_prompts import ChatPrompts
from grpo_core.rollout.play.episode import ChatTurn
from grpo_core.rollout.protocol import GenerationRequest, SamplingParams
from grpo_core.types import Observation


class RequestBuilder:
    """Builds requests with the sampling parameters of ``config``. Siblings share tokenized prompts and constraints."""

    def __init__(self, tokenizer: Tokenizer, config: RolloutConfig) -> None:
        self._tokenizer = tokenizer
        self._config = config
        self._prompt_ids = lru_cache(maxsize=1024)(tokenizer.encode_prompt)
        self._chats = ChatPrompts(tokenizer, config)
        self._lines = LineTokens(tokenizer)

    @cached_property
    def key(self) -> str:
        """A hash of what a prompt's ids and an answer's end depend on, besides the observation."""
        parts = [self._prompt_ids("").tolist(), self._tokenizer.stop_ids, self._chats.template_key]
        return sha256(json.dumps(parts).encode()).hexdigest()

    def build(
        self, observation: Observation, seed: int, *, want_ref_logprobs: bool, last: ChatTurn | None = None
    ) -> GenerationRequest:
        """The request for an answer to ``observation``, drawn with ``seed``. ``last`` is the agent's turn before.

        Raises:
            PromptError: the model's chat template does not take the messages.
        """
        messages = observation.messages
        if messages is None:
            prompt_ids = self._prompt_ids(observation.prompt)
        else:
            prompt_ids = self._chats.ids(messages, last, observation.tools)
        return GenerationRequest(
            prompt_ids=prompt_ids,
            sampling=SamplingParams(
                seed=seed,
                temperature=self._config.temperature,
                top_p=self._config.top_p,
                top_k=self._config.top_k,
                min_p=self._config.min_p,
                max_tokens=self._config.max_completion_tokens,
                stop_ids=() if messages is None else self._chats.stop_ids,
            ),
            constraint=self._constraint_of(observation),
            want_ref_logprobs=want_ref_logprobs,
        )

    def _constraint_of(self, observation: Observation) -> Constraint | None:
        if observation.choices is not None:
            return self._lines.constraint(observation.choices, observation.distinct_choices)
        if observation.pattern is not None:
            return compile_regex(observation.pattern, self._tokenizer)
        return None
