"""What the machine allows: the least time of a decode step, and the operations of reading prompts.

A step takes at least as long as its operations at the rate of a large product of matrices, and as its bytes at the rate
at which memory is read; the larger of the two is the bound. Both rates are measured, with the threads of the arms. The
bytes are the weights once, and the keys and values of all distinct tokens once.

Legend: N prompts, P prompt tokens, B sequences, R completion tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from bench.rollout_arms.rounds import RolloutShape, Timed
from bench.rollout_arms.torch_arm import TorchArm
from grpo_core.model.policy import Policy
from grpo_core.training.utilization.bandwidth import read_rate
from grpo_core.training.utilization.flops import ModelCost, matrix_rate


@dataclass(frozen=True, slots=True)
class ModelSize:
    """A policy with its adapter."""

    cost: ModelCost
    num_weight_bytes: int  # of those that a step reads: the layers, the head and the adapter
    num_kv_bytes: int  # of a token, in all layers

    @classmethod
    def of(cls, policy: Policy, *, num_adapter_weights: int, num_kv_bytes: int) -> ModelSize:
        cost = ModelCost.of(policy, num_adapter_weights=num_adapter_weights, is_full=False)
        num_weights = cost.num_linear_weights + cost.hidden_size * cost.vocab_size + num_adapter_weights
        return cls(cost, num_weights * _dtype(policy).itemsize, num_kv_bytes)

    def prefill_flops(self, num_prompts: int, num_prompt_tokens: int) -> float:
        """N P tokens. In the last layer only the last token of each prompt is needed, but for keys and values."""
        cost = self.cost
        upper = (cost.num_layers - 1) / cost.num_layers
        tokens = upper * num_prompt_tokens + (1 - upper)
        pairs = upper * num_prompt_tokens * (num_prompt_tokens + 1) / 2 + (1 - upper) * num_prompt_tokens
        each = 2.0 * (cost.num_linear_weights + cost.num_adapter_weights) * tokens
        each += 4.0 * cost.num_layers * cost.attention_width * pairs + 2.0 * cost.hidden_size * cost.vocab_size
        return num_prompts * each

    def step_flops(self, num_sequences: int, num_context_tokens: float) -> float:
        """A token of each of B sequences after ``num_context_tokens`` of its own, prompt and itself included."""
        cost = self.cost
        weights = cost.num_linear_weights + cost.num_adapter_weights + cost.hidden_size * cost.vocab_size
        attention = 4.0 * cost.num_layers * cost.attention_width * num_context_tokens
        return num_sequences * (2.0 * weights + attention)

    def step_bytes(self, num_distinct_tokens: float) -> float:
        return self.num_weight_bytes + self.num_kv_bytes * num_distinct_tokens


@dataclass(frozen=True, slots=True)
class Machine:
    """FLOP and bytes per second."""

    flop_rate: float
    byte_rate: float

    @classmethod
    def measured(cls, policy: Policy, num_bytes: int, num_threads: int) -> Machine:
        """With the threads and the numbers of the arms; ``num_bytes`` is what a step reads."""
        torch.set_num_threads(num_threads)
        return cls(
            matrix_rate(policy.device, _dtype(policy), num_threads), read_rate(policy.device, num_bytes, num_threads)
        )

    def bound_s(self, flops: float, num_bytes: float) -> float:
        return max(flops / self.flop_rate, num_bytes / self.byte_rate)


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of the workloads of one shape."""

    size: ModelSize
    machine: Machine
    shape: RolloutShape

    @classmethod
    def of(cls, arm: TorchArm, shape: RolloutShape, num_threads: int) -> Limits:
        policy = arm.policy
        size = ModelSize.of(policy, num_adapter_weights=arm.num_adapter_weights, num_kv_bytes=arm.kv_bytes_per_token)
        return cls(size, Machine.measured(policy, size.num_weight_bytes, num_threads), shape)

    def share_of_bound(self, one: Timed) -> float:
        """The bound of the R - 1 decode steps over the time that they took."""
        num_steps = self.shape.num_tokens - 1
        own = 1 + num_steps / 2  # tokens of a completion that a step attends to, on average
        prompt = self.shape.num_prompt_tokens
        flops = self.size.step_flops(one.num_sequences, prompt + own)
        num_bytes = self.size.step_bytes(one.num_groups * prompt + one.num_sequences * own)
        return num_steps * self.machine.bound_s(flops, num_bytes) / _decode_seconds(one)

    def prefill_rate(self, one: Timed) -> float:
        """FLOP per second while the prompts were read."""
        flops = self.size.prefill_flops(one.num_groups, self.shape.num_prompt_tokens)
        return flops / (one.sample.seconds - _decode_seconds(one))


def _decode_seconds(one: Timed) -> float:
    assert one.sample.decode_seconds is not None, "the arm has steps"
    return one.sample.decode_seconds


def _dtype(policy: Policy) -> torch.dtype:
    return next(policy.head.parameters()).dtype
