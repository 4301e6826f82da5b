"""This project's embedded engine, with an adapter active."""

from __future__ import annotations

import itertools

import torch

from bench.rollout_arms.adapter import RUN, AdapterPublisher
from bench.rollout_arms.arm import RolloutSample, Setup, Workload
from grpo_core.lora.cache import DEFAULT_MAX_BYTES, LoRACache
from grpo_core.lora.store import AdapterStore
from grpo_core.model.policy import Policy, load_policy
from grpo_core.model.tokenizer import load_tokenizer
from grpo_core.rollout.constraints.lines import LineConstraint
from grpo_core.rollout.protocol import GenerationRequest, SamplingParams, completions_or_error
from grpo_core.rollout.torch_engine.engine import TorchEngine
from pytest_grpo.measuring.sampling.clock import now

MAX_CACHED_ADAPTERS = 4


class TorchArm:
    """Samples every ``Workload`` with a new policy version, as in training.

    So it cannot reuse anything that was computed for an earlier ``Workload``.
    """

    def __init__(self, setup: Setup, versions: AdapterPublisher, *, jump_forward: bool = True) -> None:
        self.policy = policy = load_policy(setup.model)
        self.num_adapter_weights = versions.num_weights
        self.kv_bytes_per_token = kv_bytes_per_token(policy)
        self.engine = build_engine(setup, versions.store, policy, jump_forward=jump_forward)
        self._num_threads = setup.num_threads
        self._versions = versions
        self._numbers = itertools.count(1)

    def next_version(self) -> None:
        """Switch to a new version with the same weights."""
        number = next(self._numbers)
        self._versions.publish(number)
        self.engine.use_version(number)

    def run(self, workload: Workload) -> RolloutSample:
        torch.set_num_threads(self._num_threads)
        self.next_version()
        before = self.engine.counters
        start = now()
        asked = requests(workload)
        for request in asked:
            self.engine.submit(request)
        outcomes = self.engine.step()  # the first step is the prefill of all prompts
        prompts_read = now()
        while len(outcomes) < len(asked):
            outcomes += self.engine.step()
        end = now()
        completions = completions_or_error([outcome.result for outcome in outcomes])
        return RolloutSample(
            num_tokens=sum(len(completion.completion_ids) for completion in completions),
            seconds=end - start,
            num_prefill_tokens=(self.engine.counters - before).num_prefill_tokens,
            decode_seconds=end - prompts_read,
        )

    def close(self) -> None:
        pass


def build_engine(setup: Setup, store: AdapterStore, policy: Policy, *, jump_forward: bool = True) -> TorchEngine:
    """An engine on ``policy`` that samples from the base model until ``use_version``."""
    return TorchEngine(
        policy,
        load_tokenizer(setup.model.name).stop_ids,
        LoRACache(store, DEFAULT_MAX_BYTES, MAX_CACHED_ADAPTERS),
        RUN,
        max_batch_sequences=setup.max_sequences,
        jump_forward=jump_forward,
    )


def requests(workload: Workload) -> list[GenerationRequest]:
    """The requests of each group together, each request with its own seed."""
    constraints = (
        [None] * len(workload.prompts) if workload.orders is None else [LineConstraint(one) for one in workload.orders]
    )
    seeds = itertools.count(workload.seed * workload.num_sequences)
    return [
        GenerationRequest(
            prompt_ids=prompt,
            sampling=SamplingParams(seed=next(seeds), max_tokens=workload.num_tokens, ignore_stop=True),
            constraint=constraint,
        )
        for prompt, constraint in zip(workload.prompts, constraints, strict=True)
        for _ in range(workload.group_size)
    ]


def kv_bytes_per_token(policy: Policy) -> int:
    """Bytes of the keys and values of one token, in all layers."""
    return sum(
        module.weight.shape[0] * module.weight.element_size()
        for name, module in policy.decoder.named_modules()
        if isinstance(module, torch.nn.Linear) and name.endswith((".k_proj", ".v_proj"))
    )
