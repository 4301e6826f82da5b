"""The interface between callers, who submit requests, and rollout engines, which sample completions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, astuple, dataclass
from typing import Protocol

from grpo_core.errors import GrpoError
from grpo_core.rollout.constraints.lines import Constraint
from grpo_core.types import Completion, Int32


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How one completion is drawn. The same seed gives the same tokens, whatever shares the batch.

    The order: divide the logits by ``temperature``; keep the ids that the constraint allows, of these the ``top_k``
    most probable, of these the ones with at least ``min_p`` times the largest probability, of these the most probable
    ones until their mass reaches ``top_p``; renormalise what is left. ``top_k=1`` is greedy.
    """

    seed: int
    _: KW_ONLY
    temperature: float = 1.0  # above 0
    top_p: float = 1.0  # above 0, at most 1
    top_k: int = 0  # 0: all
    min_p: float = 0.0  # from 0, below 1
    max_tokens: int = 256
    stop_ids: tuple[int, ...] = ()  # besides those of the tokenizer and the model
    ignore_stop: bool = False  # generate max_tokens, whatever is drawn


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One completion to draw. Requests that share a prefix of ``prompt_ids`` share its prefill.

    A constrained completion ends with its constraint; ``max_tokens`` cuts it only where the constraint has no longest
    completion.
    """

    prompt_ids: Int32  # [P]
    sampling: SamplingParams
    constraint: Constraint | None = None
    want_ref_logprobs: bool = False
    policy_version: int | None = None  # None: the active one when the request is submitted

    @property
    def is_open_ended(self) -> bool:
        """Only ``max_tokens`` bounds its completion."""
        return self.constraint is None or self.constraint.max_tokens is None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one request ended: with a completion, or with its own error."""

    ticket: int
    result: Completion | GrpoError


@dataclass(frozen=True, slots=True)
class EngineCounters:
    """Exact totals since the engine was built.

    ``num_requests`` counts what was submitted, from ``submit`` on and whatever becomes of it. Each such request ends as
    one of ``num_failed``, one of ``num_cancelled``, or with a completion.
    """

    num_requests: int = 0
    num_prefill_tokens: int = 0  # prompt tokens that were computed, not read from the prefix cache
    num_completion_tokens: int = 0
    num_decode_steps: int = 0  # forward passes after prefill
    num_adapter_swaps: int = 0
    num_cached_tokens: int = 0  # prompt tokens that were read from the prefix cache
    num_forced_tokens: int = 0  # completion tokens that were the only one a constraint allowed
    num_cancelled: int = 0
    num_failed: int = 0
    num_lost_tokens: int = 0  # drawn for requests that failed or were cancelled, as far as the engine knows
    num_decode_rows: int = 0  # requests that took part in a decode step, summed over the steps
    num_preemptions: int = 0  # requests that lost their place in the KV cache and were computed again
    kv_share_steps: float = 0.0  # share of the KV cache that was in use, summed over decode steps

    @property
    def num_sampled_tokens(self) -> int:
        """All that was drawn or forced, whatever became of it."""
        return self.num_completion_tokens + self.num_lost_tokens

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
    """Samples completions with continuous batching: requests join and leave between two steps. Not thread-safe."""

    @property
    def policy_version(self) -> int:
        """The version that requests without one of their own are sampled from; 0 is the base model."""
        ...

    @property
    def counters(self) -> EngineCounters:
        """Totals so far; a value that does not change afterwards."""
        ...

    def use_version(self, number: int) -> AdapterSwap:
        """Make this policy version the active one; 0 is the base model. Requests under way keep theirs.

        Raises:
            AdapterNotFoundError: it was never published.
            AdapterCorruptError: its files do not match their checksums.
            AdapterError: it does not fit this base model.
        """
        ...

    def submit(self, request: GenerationRequest) -> int:
        """Queue ``request`` and return its ticket. A request that cannot be served ends in ``step`` with its error."""
        ...

    def step(self) -> list[Outcome]:
        """Advance the requests under way, and return those that ended, perhaps none."""
        ...

    def cancel(self, ticket: int) -> None:
        """Drop a request and free what it held. An unknown ticket, or one that has ended, is no error."""
        ...

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Completion]:
        """One completion per request, in order.

        Raises:
            PromptError: a prompt is empty or, with ``max_tokens``, does not fit the model's context.
            SamplingError: a sampling parameter is out of its range, or the logits are non-finite.
            ConstraintError: a constraint allows no continuation.
            AdapterError: a request names a version that cannot be loaded.
        """
        ...


class LocalEngine(RolloutEngine, Protocol):
    """A rollout engine that this process has opened (``grpo_core.rollout.engines``), and closes."""

    @property
    def model_fingerprint(self) -> str:
        """The fingerprint of the base weights that it samples from, as ``Policy.fingerprint``."""
        ...

    @property
    def scores_in_one_pass(self) -> bool:
        """Whether ``want_ref_logprobs`` costs one forward pass per completion. Where it costs one per token, leave it
        off: a trainer has the base weights, and computes missing ones in one pass."""
        ...

    @property
    def is_batch_invariant(self) -> bool:
        """Whether tokens and log-probabilities of the active version have the same bits whatever shares the batch.
        Otherwise they agree up to rounding."""
        ...

    def drawn_tokens(self) -> dict[int, list[int]]:
        """Tokens drawn so far, by ticket of the requests under way; empty for an engine that does not report them."""
        ...

    def forget_prompts(self) -> None:
        """Evict unused prompts from the prefix cache, as a new policy version does."""
        ...

    def close(self) -> None:
        """Stop its threads and processes and drop the requests under way. Calling it twice is no error."""
        ...


def run_requests(engine: RolloutEngine, requests: Sequence[GenerationRequest]) -> list[Completion | GrpoError]:
    """How each of ``requests`` ended, in order. Nothing else may be under way in ``engine``."""
    places = {engine.submit(request): place for place, request in enumerate(requests)}
    results: list[Completion | GrpoError | None] = [None] * len(requests)
    num_left = len(requests)
    while num_left:
        for outcome in engine.step():
            results[places[outcome.ticket]] = outcome.result
            num_left -= 1
    return [result for result in results if result is not None]


def completions_or_error(results: Sequence[Completion | GrpoError]) -> list[Completion]:
    """The completions of ``run_requests``. Raises the first error among them."""
    completions: list[Completion] = []
    for result in results:
        if isinstance(result, GrpoError):
            raise result
        completions.append(result)
    return completions
