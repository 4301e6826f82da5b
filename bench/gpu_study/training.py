"""A training step at long lengths: its share of the matrix rate that was measured on the same device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from bench.gpu_study.row import Row, Work
from bench.gpu_study.setup import config_of
from bench.trainer_arms.batches import BatchShape, random_batch
from grpo_core.model.policy import load_policy
from grpo_core.training.trainer import Trainer
from grpo_core.training.utilization.flops import matrix_rate
from grpo_core.types import StepMetrics
from pytest_grpo.measuring.sampling.clock import now
from pytest_grpo.systems.core.batches import core_batch

GROUP_SIZE = 8
PROMPT_TOKENS = 256
NUM_STEPS = 3  # the first one compiles
MOST_KEPT_TOKENS = 20_000  # with more tokens, activations are computed again
RIVALS = {
    16_384: "21.7 % (prime-rl, Qwen3-4B, LoRA r=16, H100)",
    65_536: "37.4 % (prime-rl, Qwen3-4B, LoRA r=16, H100)",
}


@dataclass(frozen=True, slots=True)
class Step:
    metrics: StepMetrics
    seconds: float


def measure_training(work: Work) -> Iterator[Row]:
    """One group of eight completions behind one prompt, at each number of tokens of the layout."""
    rate = matrix_rate(torch.device(work.device), getattr(torch, work.dtype), torch.get_num_threads())
    for num_tokens in work.train_tokens:
        step = fastest_step(work, num_tokens)
        mfu = step.metrics.flops / (step.seconds * rate)
        assert mfu <= 1.0, f"{mfu:.0%} of the measured matrix rate cannot be"
        trained = step.metrics.num_loss_tokens / step.seconds
        recomputes = "activations are computed again" if num_tokens > MOST_KEPT_TOKENS else ""
        yield Row(name=f"trainer_mfu_{num_tokens}", value=mfu, rival=RIVALS.get(num_tokens, ""), note=recomputes)
        yield Row(name=f"trainer_step_s_{num_tokens}", value=step.seconds, unit="s")
        yield Row(name=f"trained_tokens_per_second_{num_tokens}", value=trained, unit="tokens/s")
        yield Row(name=f"trainer_peak_gib_{num_tokens}", value=step.metrics.peak_memory_bytes / (1 << 30), unit="GiB")


def fastest_step(work: Work, num_tokens: int) -> Step:
    """Of ``NUM_STEPS``; the weights stay as they are."""
    config = config_of(work, recompute=num_tokens > MOST_KEPT_TOKENS)
    policy = load_policy(config.model)
    trainer = Trainer(policy, config.model, config.training, run=config.run)
    prompt = min(PROMPT_TOKENS, num_tokens // 2)
    shape = BatchShape(1, GROUP_SIZE, prompt, (num_tokens - prompt) // GROUP_SIZE)
    batch = core_batch(random_batch(np.random.default_rng(0), shape, policy.vocab_size))
    steps: list[Step] = []
    for _ in range(NUM_STEPS):
        trainer.version = 0
        start = now()
        metrics = trainer.step(batch)
        steps.append(Step(metrics, now() - start))
    return min(steps, key=lambda step: step.seconds)
