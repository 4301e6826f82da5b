"""Decode one cohort: prefill its prompts once each, then one token per sequence and step until all have ended.

Legend: N groups, G sequences per group, B = N * G.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.autograd.profiler import record_function

from grpo_core.attention import forward_hidden
from grpo_core.model import Policy
from grpo_core.rollout.constraint import ConstraintCursor
from grpo_core.rollout.protocol import GenerationRequest
from grpo_core.rollout.torch_engine.attention import DecodePlan, PrefillPlan
from grpo_core.rollout.torch_engine.kv_cache import CohortCache, PromptCache
from grpo_core.rollout.torch_engine.sampling import Draw, draw_tokens
from grpo_core.rollout.torch_engine.scheduler import Cohort, completion_budget, prefill_batches
from grpo_core.types import Completion, FinishReason, Int32, RaggedIds

COMPACT_BELOW = 0.75  # drop finished groups from the batch once fewer than this share is left


@dataclass
class Draft:
    """One completion in the making."""

    request: GenerationRequest
    cursor: ConstraintCursor | None
    uniforms: np.ndarray  # one per token that the policy chooses
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    supports: list[Int32 | None] = field(default_factory=list)
    forced: list[bool] = field(default_factory=list)
    finish_reason: FinishReason | None = None

    @classmethod
    def start(cls, request: GenerationRequest) -> Draft:
        cursor = ConstraintCursor(request.constraint) if request.constraint is not None else None
        uniforms = np.random.default_rng(request.sampling.seed).random(completion_budget(request))
        return cls(request, cursor, uniforms)

    def allowed(self) -> Sequence[int] | None:
        return self.cursor.allowed() if self.cursor is not None else None

    def append(self, draw: Draw, *, forced: bool, stop_id: int) -> None:
        self.tokens.append(draw.token)
        self.logprobs.append(draw.logprob)
        self.supports.append(draw.support)
        self.forced.append(forced)
        if self.cursor is not None:
            self.cursor.advance(draw.token)
            if self.cursor.finished:
                self.finish_reason = "stop"
        elif draw.token == stop_id:
            self.finish_reason = "stop"
        elif len(self.tokens) == self.request.sampling.max_tokens:
            self.finish_reason = "length"

    def finish(self, policy_version: int) -> Completion:
        assert self.finish_reason is not None
        return Completion(
            prompt_ids=self.request.prompt_ids,
            completion_ids=np.array(self.tokens, dtype=np.int32),
            completion_mask=~np.array(self.forced, dtype=np.bool_),
            sampling_logprobs=np.array(self.logprobs, dtype=np.float32),
            policy_version=policy_version,
            temperature=self.request.sampling.temperature,
            finish_reason=self.finish_reason,
            allowed_ids=_ragged(self.supports),
        )


def _ragged(supports: list[Int32 | None]) -> RaggedIds | None:
    present = [support for support in supports if support is not None]
    if not present:
        return None
    assert len(present) == len(supports), "a completion is constrained throughout or not at all"
    offsets = np.zeros(len(present) + 1, dtype=np.int32)
    offsets[1:] = np.cumsum([len(support) for support in present])
    return RaggedIds(ids=np.concatenate(present), offsets=offsets)


def prefill(policy: Policy, cohort: Cohort, max_tokens: int) -> tuple[list[PromptCache], Tensor]:
    """Keys and values of the cohort's prompts, and the hidden state [N, hidden] after each."""
    caches: list[PromptCache] = []
    last: list[Tensor] = []
    for batch in prefill_batches(cohort, max_tokens):
        lengths = torch.tensor([len(group.prompt_ids) for group in batch])
        input_ids = torch.zeros(len(batch), int(lengths.max()), dtype=torch.long)
        for row, group in enumerate(batch):
            input_ids[row, : len(group.prompt_ids)] = torch.from_numpy(group.prompt_ids)
        positions = torch.arange(input_ids.shape[1])[None].expand_as(input_ids)
        plan = PrefillPlan()
        hidden = forward_hidden(policy.decoder, input_ids.to(policy.device), positions.to(policy.device), plan)
        lengths = lengths.to(policy.device)
        last.append(hidden[torch.arange(len(batch), device=policy.device), lengths - 1])
        caches.append(plan.finish(lengths))
    return caches, torch.cat(last)


@dataclass(frozen=True, slots=True)
class CohortResult:
    drafts: dict[int, Draft]  # by index of the request
    num_decode_steps: int


def decode_cohort(
    policy: Policy, requests: Sequence[GenerationRequest], cohort: Cohort, stop_id: int, prefill_tokens: int
) -> CohortResult:
    """Complete all requests of ``cohort``."""
    drafts = {member: Draft.start(requests[member]) for group in cohort for member in group.members}
    rows = [drafts[member] for group in cohort for member in group.members]
    group_size = len(cohort[0].members)
    with record_function("prefill"):
        prompts, last = prefill(policy, cohort, prefill_tokens)
    max_tokens = max(completion_budget(draft.request) for draft in rows)
    cache = CohortCache.allocate(prompts, group_size, max_tokens)
    plan = DecodePlan(cache)
    hidden = last.repeat_interleave(group_size, dim=0)
    with record_function("decode"):
        _decode(policy, rows, hidden, cache, plan, stop_id)
    return CohortResult(drafts, num_decode_steps=plan.step)


def _decode(
    policy: Policy, rows: list[Draft], hidden: Tensor, cache: CohortCache, plan: DecodePlan, stop_id: int
) -> None:
    while True:
        _draw_all(policy, rows, hidden, stop_id)
        if all(draft.finish_reason for draft in rows):
            return
        rows = _compact(rows, cache, plan)
        tokens = torch.tensor([[draft.tokens[-1]] for draft in rows], device=policy.device)
        positions = cache.prompt_lengths.repeat_interleave(cache.group_size)[:, None] + plan.step
        hidden = forward_hidden(policy.decoder, tokens, positions, plan)[:, 0]
        plan.step += 1


def _draw_all(policy: Policy, rows: list[Draft], hidden: Tensor, stop_id: int) -> None:
    """Give every unfinished row its next token; the head runs only where there is a choice."""
    choosing: list[int] = []
    allowed: list[Sequence[int] | None] = []
    for index, draft in enumerate(rows):
        if draft.finish_reason:
            continue
        ids = draft.allowed()
        if ids is not None and len(ids) == 1:
            support = np.array(ids, dtype=np.int32)
            draft.append(Draw(ids[0], 0.0, support), forced=True, stop_id=stop_id)
        else:
            choosing.append(index)
            allowed.append(ids)
    if not choosing:
        return
    chosen = [rows[index] for index in choosing]
    logits = policy.head(hidden[torch.tensor(choosing, device=hidden.device)])
    draws = draw_tokens(
        logits,
        temperatures=[draft.request.sampling.temperature for draft in chosen],
        top_ps=[draft.request.sampling.top_p for draft in chosen],
        uniforms=[float(draft.uniforms[len(draft.tokens)]) for draft in chosen],
        allowed=allowed,
    )
    for draft, draw in zip(chosen, draws, strict=True):
        draft.append(draw, forced=False, stop_id=stop_id)


def _compact(rows: list[Draft], cache: CohortCache, plan: DecodePlan) -> list[Draft]:
    """Drop groups whose sequences have all ended, once they are a good part of the batch."""
    size = cache.group_size
    groups = [rows[start : start + size] for start in range(0, len(rows), size)]
    alive = [index for index, group in enumerate(groups) if not all(draft.finish_reason for draft in group)]
    if len(alive) > COMPACT_BELOW * len(groups):
        return rows
    cache.keep_groups(torch.tensor(alive, device=cache.prompt_lengths.device))
    plan.refresh()
    return [draft for index in alive for draft in groups[index]]
