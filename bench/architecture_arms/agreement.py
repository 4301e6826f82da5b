"""How far training and sampling are from transformers and PEFT, on a model in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from grpo_core.config import ModelConfig, TrainingConfig
from grpo_core.errors import ModelError
from grpo_core.lora.cache import LoRACache
from grpo_core.lora.store import AdapterStore
from grpo_core.model.policy import Policy, linear_modules, load_policy
from grpo_core.rollout.plain_engine.engine import PlainEngine
from grpo_core.rollout.protocol import GenerationRequest, SamplingParams
from grpo_core.training.trainer import Trainer
from grpo_core.types import Batch, Completion, Group, RolloutStats, Trajectory

RANK, ALPHA = 4, 8.0
REFUSED_BY_PEFT = {"gate_proj", "up_proj", "down_proj", "w1", "w2", "w3", "gate", "out_proj"}


def _completions(policy: Policy) -> list[Completion]:
    rng = np.random.default_rng(0)
    shared = rng.integers(3, policy.vocab_size, 21, dtype=np.int32)
    return [
        Completion(
            prompt_ids=shared,
            completion_ids=rng.integers(3, policy.vocab_size, num, dtype=np.int32),
            completion_mask=np.ones(num, dtype=np.bool_),
            sampling_logprobs=np.full(num, -5.0, dtype=np.float32),
            policy_version=0,
            temperature=1.0,
            finish_reason="length",
        )
        for num in (5, 9, 3)
    ]


def _targets(policy: Policy, *, all_linear: bool) -> tuple[str, ...]:
    """Names of the decoder's linear modules; without ``all_linear`` not those by which PEFT knows experts or Mamba."""
    names = {name.rpartition(".")[2] for name in linear_modules(policy.decoder)}
    return tuple(sorted(names if all_linear else names - REFUSED_BY_PEFT))


def train(folder: Path) -> tuple[str, float]:
    """The layout of a step, and the largest difference of a gradient from PEFT's, relative to the largest gradient."""
    model = ModelConfig(name=str(folder), device="cpu", lora_rank=RANK, lora_alpha=ALPHA)
    training = TrainingConfig(
        learning_rate=0.0, max_grad_norm=1e9, old_logprobs="recomputed", kl_coefficient=0.0, advantages="mean_only"
    )
    policy, trainer = _open_trainer(model, training)
    for index, parameter in enumerate(trainer.trained.parameters):
        parameter.data = _random(parameter.shape, index)
    completions = _completions(policy)
    rewards = (1.0, 0.0, 0.3)
    trajectories = [Trajectory("0", "a", (each,), reward) for each, reward in zip(completions, rewards, strict=True)]
    metrics = trainer.step(Batch(0, 0, (Group("0", tuple(trajectories)),), RolloutStats(1.0, 0, 0, 0, 0)))
    ours = [parameter.grad for parameter in trainer.trained.parameters]

    plain: Any = AutoModelForCausalLM.from_pretrained(folder).eval()
    names = [name for name, module in policy.model.named_modules() if hasattr(module, "lora_A")]
    lora = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=names)  # pyright: ignore[reportArgumentType]
    peft = get_peft_model(plain, lora).eval()
    theirs = [parameter for parameter in peft.parameters() if parameter.requires_grad]
    for index, parameter in enumerate(theirs):
        parameter.data = _random(parameter.shape, index)
    advantages = np.array(rewards) - np.mean(rewards)
    num = sum(len(each.completion_ids) for each in completions)
    loss = -sum(
        float(value) * _logprobs(peft, each).sum() / num for each, value in zip(completions, advantages, strict=True)
    )
    loss.backward()  # pyright: ignore[reportAttributeAccessIssue]
    pairs = [(one, other.grad) for one, other in zip(ours, theirs, strict=True)]
    largest = max((float(other.abs().max()) for _, other in pairs if other is not None), default=0.0)
    gaps = [_gap(one, other) for one, other in pairs]
    return metrics.packing, max(gaps) / max(largest, 1e-12)


def _open_trainer(model: ModelConfig, training: TrainingConfig) -> tuple[Policy, Trainer]:
    """With an adapter on every linear module of the decoder, as far as PEFT takes them."""
    for all_linear in (True, False):
        policy = load_policy(model, any_architecture=True)
        targets = _targets(policy, all_linear=all_linear)
        try:
            return policy, Trainer(policy, model.model_copy(update={"lora_targets": targets}), training, run="run")
        except ModelError as error:
            if "PEFT" not in str(error) or not all_linear:
                raise
    raise AssertionError("the second attempt returns or raises")


def _random(shape: torch.Size, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.1


def _gap(one: torch.Tensor | None, other: torch.Tensor | None) -> float:
    if one is None or other is None:
        given = one if other is None else other
        return 0.0 if given is None else float(given.abs().max())
    return float((one - other).abs().max())


def _logprobs(model: Any, completion: Completion) -> torch.Tensor:
    ids = np.concatenate([completion.prompt_ids, completion.completion_ids]).astype(np.int64)
    logits = model(input_ids=torch.from_numpy(ids)[None], use_cache=False).logits[0]
    targets = torch.from_numpy(ids[len(completion.prompt_ids) :])[:, None]
    return logits[len(completion.prompt_ids) - 1 : -1].log_softmax(dim=-1).gather(-1, targets)[:, 0]


@torch.no_grad()
def sample(folder: Path) -> tuple[str, float]:
    """How the plain engine reads, and how far its log-probabilities are from transformers' without a cache, in nats."""
    policy = load_policy(ModelConfig(name=str(folder), device="cpu"), any_architecture=True)
    engine = PlainEngine(policy, (2,), LoRACache(AdapterStore(folder / "adapters"), 1 << 20, 1), "run")
    prompt = np.random.default_rng(1).integers(3, policy.vocab_size, 21, dtype=np.int32)
    requests = [GenerationRequest(prompt, SamplingParams(seed, max_tokens=12, ignore_stop=True)) for seed in range(2)]
    plain: Any = AutoModelForCausalLM.from_pretrained(folder).eval()
    gaps = [
        float((torch.from_numpy(each.sampling_logprobs) - _logprobs(plain, each)).abs().max())
        for each in engine.generate(requests)
    ]
    return engine.reading, max(gaps)
