"""The engine under test, the requests to it, and the comparison of its answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from grpo_core.errors import ModelError
from grpo_core.lora.store import AdapterStore
from grpo_core.model.policy import Policy
from grpo_core.model.tokenizer import Tokenizer
from grpo_core.rollout.canaries.reference import SLACK, Reference
from grpo_core.rollout.constraints.line_tokens import LineTokens
from grpo_core.rollout.constraints.regex import compile_regex
from grpo_core.rollout.protocol import GenerationRequest, LocalEngine, SamplingParams
from grpo_core.types import Completion, Float32

TOLERANCE = 1e-4  # nats, between sampler and reference: the numerics contract
ROUNDINGS = 4  # in bfloat16 the tolerance is so many times what transformers itself is off by
TEXT = "In the spring the fleet left Brest; 1901 had been quiet, and 3 + 4 = 7 still held. Paris asked Burgundy twice. "
ORDERS = (
    ("FLEET BREST HOLDS\n",),
    ("ARMY PARIS - BURGUNDY\n", "ARMY PARIS - PICARDY\n", "ARMY PARIS SUPPORTS FLEET BREST\n", "ARMY PARIS HOLDS\n"),
    ("ARMY MARSEILLES HOLDS\n", "ARMY MARSEILLES - SPAIN\n"),
)
PATTERN = r"(FLEET|CONVOY) BREST TAKES [1-9][0-9]{0,2} TURNS TO REACH SPAIN\n"


@dataclass(frozen=True, slots=True)
class Finding:
    """Whether a check passed, and figures or the problem in one line."""

    passed: bool
    detail: str


class Subject:
    """An engine under test, with its reference."""

    def __init__(
        self, engine: LocalEngine, store: AdapterStore, run: str, policy: Policy, tokenizer: Tokenizer
    ) -> None:
        """``engine`` reads versions of ``run`` from ``store``; the reference runs on ``policy``, its base model.

        Raises:
            ModelError: the model has no linear modules, so no adapter fits it.
        """
        self.engine = engine
        self.tokenizer = tokenizer
        self._lines = LineTokens(tokenizer)
        self.reference = Reference(policy, store, run)
        if not self.reference.targets:
            raise ModelError(f"model {policy.name!r}: no linear modules that an adapter could be for; use another one")
        self.tolerance = max(TOLERANCE, ROUNDINGS * self.reference.rounding)
        self.slack = max(SLACK, 2 * self.tolerance) if self.reference.rounding else SLACK

    def request(self, index: int, seed: int = 0, *, max_tokens: int = 12, **options: Any) -> GenerationRequest:
        """A request for prompt ``index``, 8 to 71 tokens of text. It goes on to ``max_tokens``."""
        ids = self.tokenizer.encode(f"{index}: {TEXT * 3}")[: 8 + index * 13 % 64]
        return GenerationRequest(ids, SamplingParams(seed, max_tokens=max_tokens, ignore_stop=True, **options))

    def orders(self, index: int, seed: int = 0, **options: Any) -> GenerationRequest:
        """As ``request``, constrained to ``ORDERS``."""
        constraint = self._lines.constraint(ORDERS, False)
        return replace(self.request(index, seed, **options), constraint=constraint)

    def pattern(self, index: int, seed: int = 0, **options: Any) -> GenerationRequest:
        """As ``request``, constrained to ``PATTERN``.

        Raises:
            ConstraintError: the tokenizer is not a byte-level one.
        """
        return replace(self.request(index, seed, **options), constraint=compile_regex(PATTERN, self.tokenizer))

    def at(self, number: int, requests: Sequence[GenerationRequest]) -> list[Completion]:
        """The engine's completions of ``requests`` with version ``number``."""
        self.engine.use_version(number)
        return self.engine.generate(requests)

    def gap(self, completions: Sequence[Completion], number: int) -> float:
        """Nats between the engine's log-probabilities and the reference's for version ``number``, at most."""
        return max(distance(each.sampling_logprobs, self.reference.logprobs(each, number)) for each in completions)

    def difference(
        self, ones: Sequence[Completion], others: Sequence[Completion], tolerance: float | None = None
    ) -> str | None:
        """As the function, with the subject's tolerance; in bfloat16 tokens may part where rounding can part them."""
        if not self.reference.rounding:
            return difference(ones, others, self.tolerance if tolerance is None else tolerance)
        for index, (one, other) in enumerate(zip(ones, others, strict=True)):
            num = min(len(one.completion_ids), len(other.completion_ids))
            parted = np.flatnonzero(one.completion_ids[:num] != other.completion_ids[:num])
            num = int(parted[0]) if len(parted) else num
            gap = distance(one.sampling_logprobs[:num], other.sampling_logprobs[:num]) if num else 0.0
            if gap > 2 * self.tolerance:
                return f"request {index}: the same tokens, log-probabilities {gap:.1e} apart"
            if len(parted) and self._mass_between(one, other, num) > self.slack:
                return f"request {index}: {shown(one.completion_ids)} is not {shown(other.completion_ids)}"
        return None

    def _mass_between(self, one: Completion, other: Completion, place: int) -> float:
        """The probability between the two tokens at ``place``, to which one uniform number led."""
        row = self.reference.logits(one, one.policy_version)[place].astype(np.float64) / one.temperature
        weights = np.exp(row - row.max())
        if one.allowed_ids is not None:
            weights *= np.isin(np.arange(len(row)), one.allowed_ids[place])
        first, last = sorted((int(one.completion_ids[place]), int(other.completion_ids[place])))
        return float(weights[first + 1 : last].sum() / weights.sum())


def distance(one: Float32, other: Float32) -> float:
    """The largest absolute difference; infinite when it is NaN."""
    gap = float(np.abs(one - other).max())
    return gap if gap == gap else float("inf")


def difference(ones: Sequence[Completion], others: Sequence[Completion], tolerance: float = TOLERANCE) -> str | None:
    """How the first pair of unequal completions differs; log-probabilities may by ``tolerance`` nats."""
    for index, (one, other) in enumerate(zip(ones, others, strict=True)):
        if one.completion_ids.tolist() != other.completion_ids.tolist():
            return f"request {index}: {shown(one.completion_ids)} is not {shown(other.completion_ids)}"
        if distance(one.sampling_logprobs, other.sampling_logprobs) > tolerance:
            gap = distance(one.sampling_logprobs, other.sampling_logprobs)
            return f"request {index}: the same tokens, log-probabilities {gap:.1e} apart"
    return None


def shown(ids: Any) -> str:
    """The first few of ``ids``."""
    return f"[{', '.join(str(int(token)) for token in ids[:8])}{', ...' if len(ids) > 8 else ''}]"
