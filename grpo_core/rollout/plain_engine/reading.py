"""Reads a request's tokens through the model's own cache, in a way that is proved to be exact.

Some models read several tokens at a time only where they have read nothing before, or do not continue from the cache
that they return. Both would be other log-probabilities without an error.

Legend: R completion tokens, V vocabulary.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from grpo_core.errors import first_line
from grpo_core.model.policy import Policy
from grpo_core.model.proof import difference, ordinary_ids, own_logits
from grpo_core.types import Completion

Way = Literal["runs", "tokens", "whole"]
"""Pending tokens in one pass; one pass for each; or all tokens from the first one on, without a cache."""

_WAYS: tuple[Way, ...] = ("runs", "tokens", "whole")
_CACHES = ("past_key_values", "cache_params", "state")  # as models call what they return and take again
_SIZES = (9, 3, 1, 2)  # tokens of the passes of a proof

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class History:
    """What the model has read of one request. ``cache`` is an argument of its next forward pass."""

    tokens: list[int] = field(default_factory=list)
    cache: dict[str, Any] = field(default_factory=dict)


class Reader:
    """Reads with ``policy``. Its weights may change between two requests."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._model: Any = policy.model
        self._narrows_head = "logits_to_keep" in inspect.signature(self._model.forward).parameters
        self.way: Way = self._prove()

    def read(self, history: History, tokens: Sequence[int]) -> Tensor:
        """Logits [1, V] after ``tokens``, which follow what ``history`` has."""
        return self._read(history, tokens, self.way)

    def predicting(self, completion: Completion) -> Tensor:
        """Logits [R, V] that predict each token of ``completion``, in one pass without a cache."""
        ids = [*completion.prompt_ids.tolist(), *completion.completion_ids.tolist()]
        num = len(completion.completion_ids)
        return self._pass(ids, num_last=num + 1, use_cache=False).logits[0, -num - 1 : -1]

    def _read(self, history: History, tokens: Sequence[int], way: Way) -> Tensor:
        is_first = not history.tokens
        history.tokens.extend(tokens)
        if way == "whole":
            return self._pass(history.tokens, use_cache=False).logits[:, -1]
        parts = [tokens] if way == "runs" or is_first else [[token] for token in tokens]
        output = None
        for part in parts:
            output = self._pass(part, use_cache=True, **history.cache)
            history.cache = {name: output[name] for name in _CACHES if output.get(name) is not None}
        assert output is not None, "there is a token to read"
        return output.logits[:, -1]

    def _pass(self, tokens: Sequence[int], *, num_last: int = 1, **options: Any) -> Any:
        """The model's output after ``tokens``, with logits of the last ``num_last`` at least."""
        if self._narrows_head:
            options["logits_to_keep"] = num_last
        return self._model(input_ids=torch.tensor([tokens], device=self._policy.device), **options)

    @torch.inference_mode()
    def _prove(self) -> Way:
        ids = np.random.default_rng(0).choice(ordinary_ids(self._policy), sum(_SIZES))
        ends = np.cumsum(_SIZES)
        expected = own_logits(self._policy, ids)[torch.from_numpy(ends - 1)]
        scale = float(expected.std(dim=-1).mean())
        if not scale > 0:  # weights that give no numbers
            return "runs"
        for way in _WAYS[:-1]:
            problem = self._problem(np.split(ids, ends[:-1]), expected, scale, way)
            if not problem:
                return way
            logger.info("model %s: not read by %s with its cache: %s", self._policy.name, way, problem)
        return "whole"

    def _problem(self, parts: Sequence[np.ndarray], expected: Tensor, scale: float, way: Way) -> str:
        history = History()
        try:
            found = torch.cat([self._read(history, part.tolist(), way) for part in parts]).double().cpu()
        except Exception as error:  # another project's model, with a cache that it may not continue
            return f"{type(error).__name__}: {first_line(error)}"
        return difference(self._policy, found, expected, scale)
