"""The embedded rollout engine: plain torch, exact, on CPU or one GPU."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from grpo_core.lora.cache import LoRACache
from grpo_core.model import Policy
from grpo_core.packing import build_packed_batch, pack_completions, score_chosen, split_packs
from grpo_core.rollout.protocol import AdapterSwap, EngineCounters, GenerationRequest
from grpo_core.rollout.torch_engine.decode import decode_cohort
from grpo_core.rollout.torch_engine.merged_weights import MergedWeights
from grpo_core.rollout.torch_engine.scheduler import check_request, plan_cohorts
from grpo_core.types import Completion, Float32, PolicyVersion


class TorchEngine:
    """Implements ``RolloutEngine``. One thread uses it at a time; its ``policy`` is its own copy of the weights."""

    def __init__(
        self,
        policy: Policy,
        stop_id: int,
        adapters: LoRACache,
        run: str,
        *,
        max_batch_sequences: int = 256,
        prefill_tokens: int = 2048,
    ) -> None:
        self._policy = policy
        self._stop_id = stop_id
        self._adapters = adapters
        self._run = run
        self._max_batch_sequences = max_batch_sequences
        self._prefill_tokens = prefill_tokens
        self._weights = MergedWeights(policy.model, policy.fingerprint)
        self._version = 0
        self._counters = EngineCounters()

    @property
    def policy_version(self) -> int:
        return self._version

    @property
    def counters(self) -> EngineCounters:
        return self._counters

    def use_version(self, number: int) -> AdapterSwap:
        start = time.perf_counter()
        if number == 0:
            self._weights.unmerge()
            self._version = 0
            return AdapterSwap(0, cache_hit=True, load_ms=0.0, swap_ms=_elapsed_ms(start))
        loaded = self._adapters.get(PolicyVersion(self._run, number))
        start = time.perf_counter()
        if number != self._version:
            self._weights.merge(loaded.adapter)
            self._version = number
            self._count(num_adapter_swaps=1)
        return AdapterSwap(number, cache_hit=loaded.hit, load_ms=loaded.load_ms, swap_ms=_elapsed_ms(start))

    @torch.inference_mode()
    def generate(self, requests: Sequence[GenerationRequest]) -> list[Completion]:
        for request in requests:
            check_request(request, self._policy.max_context_tokens)
        completions: dict[int, Completion] = {}
        for cohort in plan_cohorts(requests, self._max_batch_sequences):
            result = decode_cohort(self._policy, requests, cohort, self._stop_id, self._prefill_tokens)
            for index, draft in result.drafts.items():
                completions[index] = draft.finish(self._version)
            self._count(
                num_prefill_tokens=sum(len(group.prompt_ids) for group in cohort),
                num_decode_steps=result.num_decode_steps,
            )
        ordered = [completions[index] for index in range(len(requests))]
        self._count(
            num_requests=len(requests),
            num_completion_tokens=sum(len(completion.completion_ids) for completion in ordered),
        )
        return self._with_ref_logprobs(requests, ordered)

    def _with_ref_logprobs(
        self, requests: Sequence[GenerationRequest], completions: list[Completion]
    ) -> list[Completion]:
        wanted = [index for index, request in enumerate(requests) if request.want_ref_logprobs]
        if self._version == 0:  # the policy is the base model
            scores = {index: completions[index].sampling_logprobs for index in wanted}
        else:
            with self._weights.base_weights():
                scored = self._score([completions[index] for index in wanted])
            scores = dict(zip(wanted, scored, strict=True))
        return [
            replace(completion, ref_logprobs=scores[index]) if index in scores else completion
            for index, completion in enumerate(completions)
        ]

    def _score(self, completions: list[Completion]) -> list[Float32]:
        """Log-probabilities [R] of each completion under the weights in use; 0 where the token was forced."""
        results = [np.zeros(len(completion.completion_ids), dtype=np.float32) for completion in completions]
        for packs in split_packs(pack_completions(completions, share_prompts=True), self._prefill_tokens):
            batch = build_packed_batch(packs, completions, self._policy.vocab_size, self._policy.device)
            logprobs = score_chosen(self._policy.decoder, self._policy.head, batch).logprobs.float().cpu().numpy()
            start = 0
            for member in batch.order:
                mask = completions[member].completion_mask
                num = int(mask.sum())
                results[member][mask] = logprobs[start : start + num]
                start += num
        return results

    def _count(self, **added: int) -> None:
        self._counters = self._counters + EngineCounters(**added)


def _elapsed_ms(start: float) -> float:
    return (time.perf_counter() - start) * 1e3
