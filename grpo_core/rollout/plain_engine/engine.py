"""The plain rollout engine: unmodified ``transformers``, one request after the other.

It serves every causal language model that transformers has. Where the torch engine serves the model too, this engine
is the reference: the same seed gives the same tokens, and the two share no code of the forward pass.

Legend: P prompt tokens, R completion tokens, V vocabulary.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from grpo_core.errors import CapacityError, GrpoError, SamplingError
from grpo_core.ledger import spans
from grpo_core.lora.cache import LoRACache
from grpo_core.model.policy import Policy
from grpo_core.rollout.plain_engine.merged_weights import MergedWeights
from grpo_core.rollout.plain_engine.reading import History, Reader, Way
from grpo_core.rollout.protocol import (
    AdapterSwap,
    EngineCounters,
    GenerationRequest,
    Outcome,
    completions_or_error,
    run_requests,
)
from grpo_core.rollout.sampling import draw_tokens
from grpo_core.rollout.sequence import SequenceState, check_request, own_error
from grpo_core.types import Completion, Float32, PolicyVersion, PolicyWeights

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Work:
    """A request under way with its weights, which stay valid whatever is pruned from the store."""

    sequence: SequenceState
    weights: PolicyWeights | None  # None: the base model
    history: History


class PlainEngine:
    """Implements ``LocalEngine``. One thread uses it at a time; its ``policy`` is its own copy of the weights.

    ``step`` draws one token for the oldest request, and appends the tokens that are forced around it.
    """

    scores_in_one_pass = True
    is_batch_invariant = False  # there is no batch, but torch does not promise equal bits

    def __init__(self, policy: Policy, stop_ids: Sequence[int], adapters: LoRACache, run: str) -> None:
        if not policy.takes_plan:
            logger.warning(
                "model %s: architecture %s runs on the plain engine, one request at a time: slower than the others",
                policy.name,
                policy.architecture,
            )
        self.model_fingerprint = policy.fingerprint
        self._policy = policy
        self._stop_ids = tuple(stop_ids)
        self._adapters = adapters
        self._run = run
        self._reader = Reader(policy)
        self._weights = MergedWeights(policy.model, policy.fingerprint)
        self._merged: PolicyWeights | None = None
        self._active: PolicyWeights | None = None  # the active version; a request may have another one merged
        self._waiting: dict[int, _Work | GrpoError] = {}
        self._last_ticket = 0
        self._counters = EngineCounters()

    @property
    def policy_version(self) -> int:
        return self._active.version.number if self._active is not None else 0

    @property
    def counters(self) -> EngineCounters:
        return self._counters

    @property
    def reading(self) -> Way:
        """How the model's tokens are read."""
        return self._reader.way

    def use_version(self, number: int) -> AdapterSwap:
        start = time.perf_counter()
        weights, cache_hit = self._load(number)
        load_ms = _elapsed_ms(start)
        start = time.perf_counter()
        if weights is not self._active:
            with spans.SWAP:
                self._merge(weights)
            self._active = weights
            self._count(num_adapter_swaps=int(number != 0))
        return AdapterSwap(number, cache_hit, load_ms, swap_ms=_elapsed_ms(start))

    def submit(self, request: GenerationRequest) -> int:
        self._last_ticket += 1
        self._count(num_requests=1)
        try:
            self._waiting[self._last_ticket] = self._start(request)
        except Exception as error:  # a user's request may hold anything
            self._waiting[self._last_ticket] = own_error(error, "submitting it")
        return self._last_ticket

    def cancel(self, ticket: int) -> None:
        work = self._waiting.pop(ticket, None)
        if work is not None:
            self._count(num_cancelled=1, num_lost_tokens=_num_drawn(work))

    @torch.inference_mode()
    def step(self) -> list[Outcome]:
        if not self._waiting:
            return []
        ticket, work = next(iter(self._waiting.items()))
        with spans.DRAW:
            result = work if isinstance(work, GrpoError) else self._advance(work)
        if result is None:
            return []
        del self._waiting[ticket]
        if isinstance(result, GrpoError):
            self._count(num_failed=1, num_lost_tokens=_num_drawn(work))
        else:
            num_forced = int((~result.completion_mask).sum())
            self._count(num_completion_tokens=len(result.completion_ids), num_forced_tokens=num_forced)
        return [Outcome(ticket, result)]

    def drawn_tokens(self) -> dict[int, list[int]]:
        under_way = ((ticket, work) for ticket, work in self._waiting.items() if isinstance(work, _Work))
        return {ticket: list(work.sequence.tokens) for ticket, work in under_way}

    def forget_prompts(self) -> None:
        """There is no prefix cache."""

    def close(self) -> None:
        """There are no threads or processes to stop."""

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Completion]:
        return completions_or_error(run_requests(self, requests))

    def _start(self, request: GenerationRequest) -> _Work:
        check_request(request, self._policy.max_context_tokens, self._policy.vocab_size)
        number = self.policy_version if request.policy_version is None else request.policy_version
        weights = self._active if number == self.policy_version else self._load(number)[0]
        stop_ids = () if request.sampling.ignore_stop else (*self._stop_ids, *request.sampling.stop_ids)
        sequence = SequenceState(self._last_ticket, request, number, frozenset(stop_ids), self._policy.vocab_size)
        return _Work(sequence, weights, History())

    def _advance(self, work: _Work) -> Completion | GrpoError | None:
        """Draw one token, and append the forced ones around it. None while the request is not finished."""
        sequence = work.sequence
        try:
            self._merge(work.weights)
            sequence.take_forced(whole_run=True)
            if sequence.finish_reason is None:
                (draw,) = draw_tokens(
                    self._read(work),
                    params=[sequence.request.sampling],
                    uniforms=[sequence.uniform],
                    allowed=[sequence.cursor.allowed() if sequence.cursor is not None else None],
                )
                if isinstance(draw, SamplingError):
                    return draw
                sequence.take(draw)
                sequence.take_forced(whole_run=True)
            return self._finish(work) if sequence.finish_reason is not None else None
        except torch.OutOfMemoryError as cause:
            num_tokens = len(sequence.request.prompt_ids) + len(sequence.tokens)
            error = CapacityError(f"request of {num_tokens} tokens so far: out of memory; shorten it")
            error.__cause__ = cause
            return error
        except Exception as error:  # one request runs at a time, so it is this one's
            return own_error(error, "sampling it")

    def _read(self, work: _Work) -> Tensor:
        """Logits [1, V] after all tokens of ``work``. Reads the tokens that it has not read."""
        sequence = work.sequence
        is_first = not work.history.tokens
        if is_first:
            self._count(num_prefill_tokens=len(sequence.request.prompt_ids))
        else:
            self._count(num_decode_steps=1, num_decode_rows=1)
        unread = [*(sequence.request.prompt_ids.tolist() if is_first else ()), *sequence.pending]
        sequence.pending.clear()
        with spans.PREFILL if is_first else spans.DECODE:
            return self._reader.read(work.history, unread)

    def _finish(self, work: _Work) -> Completion:
        completion = work.sequence.completion()
        if not work.sequence.request.want_ref_logprobs:
            return completion
        if work.weights is None:  # the policy is the base model
            return work.sequence.completion(completion.sampling_logprobs)
        with self._weights.base_weights(), spans.REFERENCE:
            return work.sequence.completion(self._score(completion))

    def _score(self, completion: Completion) -> Float32:
        """Log-probabilities [R] of ``completion`` under the weights in use; 0 where the token was forced."""
        return _chosen_logprobs(self._reader.predicting(completion).double().cpu(), completion)

    def _load(self, number: int) -> tuple[PolicyWeights | None, bool]:
        """The weights of version ``number``, None for the base model, and whether they were in memory."""
        if number == 0:
            return None, True
        loaded = self._adapters.get(PolicyVersion(self._run, number))
        return loaded.weights, loaded.hit

    def _merge(self, weights: PolicyWeights | None) -> None:
        """Switch the model to ``weights``. Raises as ``MergedWeights.merge``."""
        if weights is self._merged:
            return
        if weights is None:
            self._weights.unmerge()
        else:
            self._weights.merge(weights)
        self._merged = weights

    def _count(self, **added: int) -> None:
        self._counters = self._counters + EngineCounters(**added)


def _chosen_logprobs(logits: Tensor, completion: Completion) -> Float32:
    """Log-probabilities [R] from ``logits`` [R, V], 0 where the token was forced.

    It shares no code with the canaries, which judge it."""
    logprobs = np.zeros(len(completion.completion_ids), dtype=np.float32)
    for index in np.flatnonzero(completion.completion_mask).tolist():
        row = logits[index] / completion.temperature
        if completion.allowed_ids is not None:
            allowed = torch.from_numpy(completion.allowed_ids[index].astype(np.int64))
            row = torch.full_like(row, -torch.inf).index_copy(0, allowed, row[allowed])
        logprobs[index] = float(row.log_softmax(dim=0)[int(completion.completion_ids[index])])
    return logprobs


def _num_drawn(work: _Work | GrpoError) -> int:
    return len(work.sequence.tokens) if isinstance(work, _Work) else 0


def _elapsed_ms(start: float) -> float:
    return (time.perf_counter() - start) * 1e3
