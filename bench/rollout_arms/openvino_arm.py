"""OpenVINO GenAI's continuous batching, with the adapter merged into its weights.

All is computed in float32, keys and values included. Prefix caching is on, a prompt is read once per group
(``num_return_sequences``), and prompts are not cut into parts below ``MAX_BATCH_TOKENS``. OpenVINO's own sampler draws
at temperature 1 from the whole vocabulary. It computes no log-probabilities and no text, which is less work than the
arm ``torch`` does.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np

from bench.rollout_arms.arm import RolloutSample, Setup, Workload
from bench.rollout_arms.merged import merged_model
from bench.rollout_arms.openvino_file import write_openvino
from grpo_core.types import Float32, Int32
from pytest_grpo.measuring.sampling.clock import now

KV_CACHE_GIB = 2
MAX_BATCH_TOKENS = 8192
MAX_SEED = 2**32


class OpenVinoArm:
    """Needs no tokenizer: ids go in and come out."""

    def __init__(self, setup: Setup, lora: Path) -> None:
        import openvino_genai  # pyright: ignore[reportMissingImports]

        folder = setup.folder / "openvino"
        write_openvino(merged_model(setup.model.name, lora), folder)
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.enable_prefix_caching = True
        scheduler.dynamic_split_fuse = True
        scheduler.cache_size = KV_CACHE_GIB
        scheduler.max_num_seqs = setup.max_sequences
        scheduler.max_num_batched_tokens = MAX_BATCH_TOKENS
        properties = {
            "INFERENCE_PRECISION_HINT": "f32",
            "KV_CACHE_PRECISION": "f32",
            "INFERENCE_NUM_THREADS": setup.num_threads,
        }
        self._pipeline: Any = openvino_genai.ContinuousBatchingPipeline(str(folder), scheduler, "CPU", properties)
        self._numbers = itertools.count()

    def run(self, workload: Workload) -> RolloutSample:
        config = _config(workload.num_tokens)
        config.do_sample = True
        config.temperature = config.top_p = 1.0
        config.num_return_sequences = workload.group_size
        config.rng_seed = workload.seed % MAX_SEED
        start = now()
        prompts = [_tensor(prompt) for prompt in workload.prompts]
        results = self._pipeline.generate(prompts, [config] * len(prompts))
        seconds = now() - start
        return RolloutSample(sum(len(ids) for result in results for ids in result.m_generation_ids), seconds)

    def greedy(self, prompt: Int32, num_tokens: int) -> Int32:
        """The most probable continuation of ``prompt``."""
        return np.array(self._one(prompt, _config(num_tokens)).generated_ids, dtype=np.int32)

    def logprobs(self, prompt: Int32, completion: Int32) -> Float32:
        """Of each token of ``completion`` after ``prompt``, in nats.

        OpenVINO tells those of prompt tokens that it computes, not of those in its cache of prefixes.
        """
        config = _config(num_tokens=1)
        config.logprobs, config.echo = 1, True
        told = self._one(np.concatenate([prompt, completion]), config).generated_log_probs[:-1]  # without the new one
        if len(told) < len(completion):
            raise ArithmeticError(f"openvino told {len(told)} log-probabilities of {len(completion)} tokens")
        return np.array(told[-len(completion) :], dtype=np.float32)

    def close(self) -> None:
        pass

    def _one(self, ids: Int32, config: Any) -> Any:
        handle = self._pipeline.add_request(next(self._numbers), _tensor(ids), config)
        while self._pipeline.has_non_finished_requests():
            self._pipeline.step()
        (output,) = handle.read_all()
        return output


def _config(num_tokens: int) -> Any:
    """Greedy; nothing ends a completion but its length."""
    import openvino_genai  # pyright: ignore[reportMissingImports]

    config = openvino_genai.GenerationConfig()
    config.max_new_tokens = num_tokens
    config.ignore_eos = True
    config.set_eos_token_id(0)  # it must be an id, though it is ignored
    return config


def _tensor(ids: Int32) -> Any:
    import openvino  # pyright: ignore[reportMissingImports]

    return openvino.Tensor(ids[None].astype(np.int64))
