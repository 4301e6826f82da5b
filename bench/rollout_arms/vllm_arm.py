"""vLLM's ``LLM`` class with prefix caching; its core and worker are separate processes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import psutil

from bench.rollout_arms.arm import RolloutSample, Setup, Workload
from pytest_grpo.measuring.sampling.clock import now

KV_CACHE_GIB = 2


class VllmArm:
    """Its processes are suspended between runs, because a waiting worker spins for a second.

    It computes no log-probabilities and no text, which is less work than the other arms do.
    """

    def __init__(self, setup: Setup, lora: Path | None) -> None:
        os.environ["OMP_NUM_THREADS"] = str(setup.num_threads)  # inherited by vLLM's processes
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(KV_CACHE_GIB))
        os.environ.setdefault("VLLM_CPU_NUM_OF_RESERVED_CPU", "0")  # the default reserves one core
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        from vllm import LLM  # pyright: ignore[reportMissingImports]
        from vllm.lora.request import LoRARequest  # pyright: ignore[reportMissingImports]

        from grpo_core.model.source import locate_model

        others = set(psutil.Process().children(recursive=True))
        options: dict[str, Any] = {}
        if lora is not None:
            options = {"enable_lora": True, "max_loras": 1, "max_lora_rank": max(8, setup.model.lora_rank)}
        self._lora = LoRARequest("speed-v000001", 1, str(lora)) if lora is not None else None
        self._engine = LLM(
            locate_model(setup.model.name),
            dtype=setup.model.dtype,
            enforce_eager=True,
            enable_prefix_caching=True,
            max_num_seqs=setup.max_sequences,
            **options,
        )
        self._processes = set(psutil.Process().children(recursive=True)) - others
        self._stop()

    def run(self, workload: Workload) -> RolloutSample:
        from vllm import SamplingParams, TokensPrompt  # pyright: ignore[reportMissingImports]

        prompts = [TokensPrompt(prompt_token_ids=prompt.tolist()) for prompt in workload.prompts]
        sampling = SamplingParams(
            n=workload.group_size, temperature=1.0, max_tokens=workload.num_tokens, ignore_eos=True, detokenize=False
        )
        self._resume()
        start = now()
        results = self._engine.generate(prompts, sampling, use_tqdm=False, lora_request=self._lora)
        seconds = now() - start
        self._stop()
        num_tokens = sum(len(completion.token_ids) for result in results for completion in result.outputs)
        return RolloutSample(num_tokens, seconds)

    def close(self) -> None:
        self._resume()
        self._engine.llm_engine.engine_core.shutdown()

    def _stop(self) -> None:
        for process in self._processes:
            process.suspend()

    def _resume(self) -> None:
        for process in self._processes:
            process.resume()
