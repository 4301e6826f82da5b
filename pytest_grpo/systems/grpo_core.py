"""This project's own stack, grpo_core, as a system."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_grpo.systems.core.batches import StepLogprobs, by_completion, core_batch
from pytest_grpo.systems.core.configuration import RUN, run_values
from pytest_grpo.systems.core.runs import CoreRuns
from pytest_grpo.systems.core.switchable_cache import switchable_cache
from pytest_grpo.systems.peft_gradients import adapter_gradients
from pytest_grpo.systems.protocol import (
    AdapterSwap,
    Completion,
    GrpoSystem,
    Rollout,
    SystemSettings,
    TrainBatch,
    TrainStep,
)
from pytest_grpo.systems.run_plan import RunPlan
from pytest_grpo.systems.step_record import StepRecord

if TYPE_CHECKING:
    from torch import nn

    from pytest_grpo.systems.protocol import Float32, Int32

GREEDY_TEMPERATURE = 1e-6  # all probability on the most probable token, except for exact ties


class GrpoCoreSystem(GrpoSystem):
    """The torch engine, the adapter store and cache, and the trainer, each with its own copy of the base weights."""

    name = "grpo_core"

    def __init__(self, settings: SystemSettings) -> None:
        from grpo_core.config import build_config
        from grpo_core.lora.store import AdapterStore
        from grpo_core.model.policy import load_policy
        from grpo_core.model.tokenizer import load_tokenizer
        from grpo_core.rollout.engines import check_engine, open_engine
        from grpo_core.training.trainer import Trainer

        config = build_config(run_values(settings))
        self._needs_reference = settings.kl_coefficient > 0
        self._tokenizer = load_tokenizer(settings.model)
        self._store = AdapterStore(settings.home / "adapters")
        self._adapters = switchable_cache(self._store)
        check_engine(config)
        self._engine = open_engine(config, self._tokenizer.stop_ids, self._adapters, self._store)
        self._step_logprobs: StepLogprobs = []
        self._policy = load_policy(config.model, any_architecture=settings.engine != "torch")
        self._trainer = Trainer(
            self._policy,
            config.model,
            config.training,
            run=RUN,
            seed=settings.seed,
            on_micro_batch=lambda batch, terms: self._step_logprobs.append((batch.members, terms.logprobs.detach())),
        )
        self._full_rate = self._trainer.learning_rate
        self._runs = CoreRuns(config, settings.home / "runs", self._store, self._engine, self._tokenizer, self._trainer)

    def encode(self, text: str) -> Int32:
        return self._tokenizer.encode_prompt(text)

    def rollout(
        self,
        prompts: Sequence[Int32],
        group_size: int,
        max_tokens: int,
        *,
        seed: int,
        batch_size: int | None = None,
        greedy: bool = False,
    ) -> Rollout:
        from grpo_core.rollout.protocol import GenerationRequest, SamplingParams

        num = len(prompts) * group_size
        temperature = GREEDY_TEMPERATURE if greedy else 1.0
        requests = [
            GenerationRequest(
                prompt_ids=prompts[index // group_size],
                sampling=SamplingParams(seed=seed * num + index, temperature=temperature, max_tokens=max_tokens),
                want_ref_logprobs=self._needs_reference and not greedy,
            )
            for index in range(num)
        ]
        size = batch_size or num
        self._engine.forget_prompts()  # in training, each policy version samples with an empty cache
        start = time.perf_counter()
        sampled = [
            completion
            for first in range(0, num, size)
            for completion in self._engine.generate(requests[first : first + size])
        ]
        seconds = time.perf_counter() - start
        completions = [
            Completion(item.completion_ids, item.completion_mask, item.sampling_logprobs, item.ref_logprobs)
            for item in sampled
        ]
        groups = (tuple(completions[first : first + group_size]) for first in range(0, num, group_size))
        return Rollout(tuple(groups), seconds)

    def train_step(self, batch: TrainBatch, *, learning_rate: float = 0.0) -> TrainStep:
        start = time.perf_counter()
        self._trainer.learning_rate = self._full_rate * learning_rate
        self._step_logprobs.clear()
        taken = core_batch(batch)
        begin = time.perf_counter()
        step = self._trainer.step(taken)
        end = time.perf_counter()
        logprobs = by_completion(self._step_logprobs, batch.completions)
        converting_ms = (begin - start + time.perf_counter() - end) * 1e3
        return TrainStep(
            loss=step.loss,
            grad_norm=step.grad_norm,
            loss_forward_ms=step.loss_forward_ms,
            backward_ms=step.backward_ms,
            num_forward_passes=step.num_forward_passes + step.num_scoring_passes,
            num_micro_batches=step.num_micro_batches,
            num_tokenizer_calls=step.num_tokenizer_calls,
            num_loss_tokens=step.num_loss_tokens,
            logprobs=logprobs,
            other_ms=converting_ms
            + sum((step.layout_ms, step.scoring_ms, step.gradient_sum_ms, step.optimizer_ms, step.sums_ms)),
        )

    def gradients(self) -> Mapping[str, Float32]:
        return adapter_gradients(self._policy.model.named_parameters())

    def weights(self) -> Mapping[str, Float32]:
        return {name: tensor.numpy() for name, tensor in self._trainer.weights().tensors.items()}

    def load_weights(self, weights: Mapping[str, Float32]) -> None:
        import torch

        tensors = {name: torch.from_numpy(values) for name, values in weights.items()}
        self._trainer.load_weights(replace(self._trainer.weights(), tensors=tensors))

    def publish_adapter(self) -> int:
        from torch.autograd.profiler import record_function

        from grpo_core.types import PolicyVersion

        latest = self._store.latest(RUN)
        # Not the trainer's own number: version 0 is the base model, which is never in the cache.
        version = PolicyVersion(RUN, latest.number + 1 if latest is not None else 1)
        with record_function("publish"):
            self._store.publish(replace(self._trainer.weights(), version=version))
        return version.number

    def swap_adapter(self, version: int, *, cached: bool = True) -> AdapterSwap:
        if not cached:
            self._engine.use_version(0)  # as in a new process, no adapter is merged
        self._adapters.is_bypassed = not cached
        swap = self._engine.use_version(version)
        return AdapterSwap(swap.cache_hit, swap.load_ms, swap.swap_ms)

    def run(self, num_steps: int, plan: RunPlan) -> Sequence[StepRecord]:
        self._adapters.is_bypassed = True  # it may hold other weights under the number of a version to come
        try:
            return self._runs.run(num_steps, plan)
        finally:
            self._adapters.is_bypassed = False

    def events(self, file: Path) -> AbstractContextManager[object]:
        return self._runs.events(file)

    def trace(self, folder: Path) -> AbstractContextManager[object]:
        from grpo_core.telemetry.traces.profiler import trace

        return trace(folder)

    def save_state(self, folder: Path) -> None:
        self._runs.save(folder)

    def load_state(self, folder: Path) -> None:
        self._runs.load(folder)

    def decoders(self) -> Sequence[nn.Module]:
        return (self._policy.decoder,)

    def tokenizers(self) -> Sequence[object]:
        return (self._tokenizer,)

    def close(self) -> None:
        self._engine.close()

    @property
    def counters(self) -> Mapping[str, int]:
        engine, cache = self._engine.counters, self._adapters.counters
        return {
            "adapter_cache_hits": cache.hits,
            "adapter_cache_misses": cache.misses,
            "num_adapter_swaps": engine.num_adapter_swaps,
            "num_completion_tokens": engine.num_completion_tokens,
            "num_decode_steps": engine.num_decode_steps,
            "num_prefill_tokens": engine.num_prefill_tokens,
        }
