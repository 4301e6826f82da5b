"""The state of one request under way, as every engine of this project keeps it (vLLM's ``Request``)."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from grpo_core.errors import EngineError, GrpoError, PromptError
from grpo_core.rollout.constraints.guard import GuardedCursor
from grpo_core.rollout.protocol import GenerationRequest
from grpo_core.rollout.sampling import Draw, check_sampling
from grpo_core.types import Completion, FinishReason, Float32, Int32, PackedIds, RaggedIds, pack_ids


def completion_budget(request: GenerationRequest) -> int:
    """The most tokens that ``request`` can produce."""
    if request.constraint is not None and request.constraint.max_tokens is not None:
        return request.constraint.max_tokens
    return request.sampling.max_tokens


def check_request(
    request: GenerationRequest, max_context_tokens: int, vocab_size: int, *, kv_cache_bytes: int | None = None
) -> None:
    """Give ``kv_cache_bytes`` where the KV cache, not the model, bounds the context: the message then names it.

    Raises:
        PromptError: the prompt is empty, holds ids that are not the model's, or does not fit the context together with
            what may be generated, or nothing may be generated.
        SamplingError: a sampling parameter is out of its range.
    """
    check_sampling(request.sampling)
    ids = request.prompt_ids
    if not isinstance(ids, np.ndarray) or ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise PromptError(
            "prompt_ids are no one-dimensional array of whole numbers; give np.array(ids, dtype=np.int32)"
        )
    num_prompt, num_completion = len(request.prompt_ids), completion_budget(request)
    if num_completion < 1:
        raise PromptError(f"max_tokens {num_completion}: nothing could be generated; allow at least 1")
    if num_prompt == 0:
        raise PromptError("prompt of 0 tokens: at least 1 is needed; give the policy something to read")
    least, most = int(request.prompt_ids.min()), int(request.prompt_ids.max())
    if least < 0 or most >= vocab_size:
        raise PromptError(
            f"prompt with token id {least if least < 0 else most}: the model's ids are 0 to {vocab_size - 1}; encode "
            "the text with the model's own tokenizer"
        )
    if num_prompt + num_completion > max_context_tokens:
        bound, way_out = "the model's context is", "take a model with a longer context"
        if kv_cache_bytes is not None:
            bound, way_out = f"rollout.max_kv_bytes {kv_cache_bytes} holds a context of", "raise rollout.max_kv_bytes"
        raise PromptError(
            f"prompt of {num_prompt} tokens and up to {num_completion} to generate: {bound} "
            f"{max_context_tokens} tokens; shorten the prompt, ask for fewer tokens (rollout.max_completion_tokens), "
            f"or {way_out}"
        )


def own_error(error: Exception, doing: str) -> GrpoError:
    """``error``, raised while the engine worked for one request alone, as that request's own: the others go on."""
    if isinstance(error, GrpoError):
        return error
    own = EngineError(
        f"request: {doing} failed: {type(error).__name__}: {str(error).partition(chr(10))[0]}; check what it asks for"
    )
    own.__cause__ = error
    return own


@dataclass(eq=False)
class SequenceState:
    """A request and what it has produced. ``pending`` tokens are appended, but the model has not read them yet."""

    ticket: int
    request: GenerationRequest
    policy_version: int
    stop_ids: frozenset[int]
    vocab_size: int
    cursor: GuardedCursor | None = field(init=False)
    budget: int = field(init=False)
    uniforms: np.ndarray = field(init=False)  # one per position of the completion, used where the policy chooses
    tokens: list[int] = field(default_factory=list)
    pending: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    supports: list[PackedIds | None] = field(default_factory=list)
    forced: list[bool] = field(default_factory=list)
    finish_reason: FinishReason | None = None

    def __post_init__(self) -> None:
        request = self.request
        self.cursor = GuardedCursor(request.constraint, self.vocab_size) if request.constraint is not None else None
        self.budget = completion_budget(request)
        self.uniforms = np.random.default_rng(request.sampling.seed).random(self.budget)

    @property
    def uniform(self) -> float:
        """The uniform random number that the next token is drawn with."""
        return float(self.uniforms[len(self.tokens)])

    @property
    def max_num_tokens(self) -> int:
        """The length of its completion; while it runs, the upper bound."""
        return self.budget if self.finish_reason is None else len(self.tokens)

    def take(self, draw: Draw) -> None:
        """Append the token that the policy chose. Raises ConstraintError as ``GuardedCursor``."""
        self._append(draw.token, draw.logprob, draw.support, forced=False)

    def take_forced(self, *, whole_run: bool) -> None:
        """Append the tokens that the constraint forces: the whole run of them, or one per forward pass.

        Raises:
            ConstraintError: as ``GuardedCursor``.
        """
        while self.cursor is not None and not self.finish_reason and (whole_run or not self.pending):
            allowed = self.cursor.allowed()
            if len(allowed) != 1:
                return
            token = int(allowed[0])
            self._append(token, 0.0, np.array([token], dtype=np.int32), forced=True)

    def _append(self, token: int, logprob: float, support: Int32 | None, *, forced: bool) -> None:
        self.tokens.append(token)
        self.pending.append(token)
        self.logprobs.append(logprob)
        self.supports.append(None if support is None else pack_ids(support))
        self.forced.append(forced)
        if self.cursor is not None:
            self.cursor.advance(token)
            if self.cursor.finished:
                self.finish_reason = "stop"
        elif token in self.stop_ids:
            self.finish_reason = "stop"
        if self.finish_reason is None and len(self.tokens) == self.budget:
            self.finish_reason = "length"

    def completion(self, ref_logprobs: Float32 | None = None) -> Completion:
        assert self.finish_reason is not None
        return Completion(
            prompt_ids=self.request.prompt_ids,
            completion_ids=np.array(self.tokens, dtype=np.int32),
            completion_mask=~np.array(self.forced, dtype=np.bool_),
            sampling_logprobs=np.array(self.logprobs, dtype=np.float32),
            policy_version=self.policy_version,
            temperature=self.request.sampling.temperature,
            finish_reason=self.finish_reason,
            allowed_ids=_ragged(self.supports),
            ref_logprobs=ref_logprobs,
        )


def _ragged(supports: list[PackedIds | None]) -> RaggedIds | None:
    present = [support for support in supports if support is not None]
    if not present:
        return None
    assert len(present) == len(supports), "a completion is constrained throughout or not at all"
    return RaggedIds.of(present)
