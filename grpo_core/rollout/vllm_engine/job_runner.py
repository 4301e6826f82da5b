"""What vLLM does for a job: it samples the completion, and runs the base model over it where its scores are wanted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from vllm import SamplingParams  # pyright: ignore[reportMissingImports]
from vllm.inputs.engine import tokens_input  # pyright: ignore[reportMissingImports]
from vllm.lora.request import LoRARequest  # pyright: ignore[reportMissingImports]
from vllm.sampling_params import RequestOutputKind  # pyright: ignore[reportMissingImports]

from grpo_core.errors import SamplingError
from grpo_core.rollout.protocol import GenerationRequest
from grpo_core.rollout.vllm_engine.adapters import LoadedAdapter
from grpo_core.rollout.vllm_engine.job import Ended, Job
from grpo_core.rollout.vllm_engine.records import RecordFetcher
from grpo_core.rollout.vllm_engine.task import SamplingTask, ScoringTask, end_id, pack_task
from grpo_core.types import Completion, FinishReason, Int32


class JobRunner:
    """Runs jobs in ``llm``, an ``AsyncLLM``. What the sampler recorded of a job comes from ``records``."""

    def __init__(self, llm: Any, records: RecordFetcher, stop_ids: Sequence[int]) -> None:
        self._llm = llm
        self._records = records
        self._stop_ids = tuple(stop_ids)

    async def run(self, job: Job) -> Ended:
        """Raises SamplingError when logits are non-finite, and what vLLM raises."""
        request, constraint = job.request, job.request.constraint
        stop_id = self._stop_ids[0]
        last_id = stop_id if constraint is None else end_id(constraint, stop_id)
        stop_ids = {last_id}
        if constraint is None:
            stop_ids = set() if request.sampling.ignore_stop else {*self._stop_ids, *request.sampling.stop_ids}
        task = SamplingTask(job.ticket, request.sampling, job.max_tokens, last_id, constraint)
        output = await self._generate(task, request.prompt_ids, job.max_tokens, sorted(stop_ids), job.adapter)
        reading = await self._records.fetch(job.ticket)
        if reading.error is not None:
            return Ended(job.ticket, reading.error)
        tokens = np.array(output.outputs[0].token_ids[: len(reading.logprobs)], dtype=np.int32)
        completion = Completion(
            prompt_ids=request.prompt_ids,
            completion_ids=tokens,
            completion_mask=~reading.forced,
            sampling_logprobs=reading.logprobs,
            policy_version=job.version,
            temperature=request.sampling.temperature,
            finish_reason=_finish_reason(request, tokens, stop_ids),
            allowed_ids=reading.allowed_ids,
        )
        if request.want_ref_logprobs:
            completion = await self._with_ref_logprobs(job, completion)
        return Ended(job.ticket, completion, output.num_cached_tokens or 0)

    async def _with_ref_logprobs(self, job: Job, completion: Completion) -> Completion:
        """Run the base model over the same tokens, up to the last one that was not forced."""
        if job.version == 0 or not completion.completion_mask.any():
            return replace(completion, ref_logprobs=completion.sampling_logprobs)
        num = int(np.flatnonzero(completion.completion_mask)[-1]) + 1
        await self._generate(ScoringTask.of(-job.ticket, completion), completion.prompt_ids, num, [], None)
        scores = np.zeros(len(completion.completion_ids), dtype=np.float32)
        scores[:num] = (await self._records.fetch(-job.ticket)).logprobs
        scores[~completion.completion_mask] = 0.0
        if not np.isfinite(scores).all():
            raise SamplingError("logits of the base model are non-finite (NaN or infinity); check its weights")
        return replace(completion, ref_logprobs=scores)

    async def _generate(
        self,
        task: SamplingTask | ScoringTask,
        prompt_ids: Int32,
        max_tokens: int,
        stop_ids: list[int],
        adapter: LoadedAdapter | None,
    ) -> Any:
        """vLLM's final output for one request. ``ExactSampler`` leaves its sampler one token, so that one is greedy."""
        params = SamplingParams(
            temperature=0.0,
            max_tokens=max_tokens,
            stop_token_ids=stop_ids,
            ignore_eos=True,
            detokenize=False,
            skip_clone=True,
            output_kind=RequestOutputKind.FINAL_ONLY,
            extra_args=pack_task(task),
        )
        outputs = self._llm.generate(
            tokens_input(prompt_ids.tolist()),
            params,
            request_id=str(task.ticket),
            lora_request=lora_request(adapter) if adapter is not None else None,
        )
        return [output async for output in outputs][-1]


def lora_request(adapter: LoadedAdapter) -> Any:
    """``adapter`` as vLLM names it."""
    return LoRARequest(lora_name=adapter.version.name, lora_int_id=adapter.id, lora_path=str(adapter.folder))


def _finish_reason(request: GenerationRequest, tokens: Int32, stop_ids: set[int]) -> FinishReason:
    if request.constraint is None:
        return "stop" if int(tokens[-1]) in stop_ids else "length"
    cursor = request.constraint.start()
    for token in tokens.tolist():
        cursor.advance(token)
    return "stop" if cursor.finished else "length"
