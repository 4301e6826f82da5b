"""The seam between who asks for completions and who computes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Protocol

from grpo_core.rollout.constraint import LineConstraint
from grpo_core.types import Completion, Int32


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How one completion is drawn. The same seed gives the same tokens, whoever shares the batch."""

    seed: int
    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 256


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One completion to draw. Requests with equal ``prompt_ids`` share the work on the prompt.

    A constrained completion ends with its constraint, whatever ``max_tokens`` says.
    """

    prompt_ids: Int32  # [P]
    sampling: SamplingParams
    constraint: LineConstraint | None = None
    want_ref_logprobs: bool = False


@dataclass(frozen=True, slots=True)
class EngineCounters:
    """Exact totals since the engine was built."""

    num_requests: int = 0
    num_prefill_tokens: int = 0
    num_completion_tokens: int = 0
    num_decode_steps: int = 0
    num_adapter_swaps: int = 0

    def __add__(self, other: EngineCounters) -> EngineCounters:
        return EngineCounters(*(mine + its for mine, its in zip(astuple(self), astuple(other), strict=True)))

    def __sub__(self, other: EngineCounters) -> EngineCounters:
        return EngineCounters(*(mine - its for mine, its in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True, slots=True)
class AdapterSwap:
    """What it took to make a policy version the active one."""

    policy_version: int
    cache_hit: bool
    load_ms: float
    swap_ms: float


class RolloutEngine(Protocol):
    """Samples completions from one policy version at a time."""

    @property
    def policy_version(self) -> int: ...

    @property
    def counters(self) -> EngineCounters: ...

    def use_version(self, number: int) -> AdapterSwap:
        """Sample from this policy version from now on; 0 is the base model.

        Raises:
            AdapterNotFoundError: it was never published.
            AdapterCorruptError: its files do not match their checksums, or do not fit this base model.
        """
        ...

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Completion]:
        """One completion per request, in order.

        Raises:
            PromptError: a prompt is empty or, with ``max_tokens``, does not fit the model's context.
            ConstraintError: a constraint allows no continuation.
        """
        ...
