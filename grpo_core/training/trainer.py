"""One GRPO update: pre-tokenized trajectories in, one forward pass per micro-batch, a changed adapter out.

The loss is the mean over all chosen tokens of the batch (Yu et al. 2025, DAPO, section 3.3), so its gradient does not
depend on how the batch is split into micro-batches.
"""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import dataclass, field

import numpy as np
import torch
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor
from torch.autograd.profiler import record_function

from grpo_core.config import ModelConfig, TrainingConfig
from grpo_core.errors import AdapterError, BatchError
from grpo_core.model import Policy, attach_lora, num_tokenizer_calls
from grpo_core.packing import (
    Pack,
    PackedBatch,
    build_packed_batch,
    chosen_values,
    pack_completions,
    score_chosen,
    split_packs,
)
from grpo_core.training.advantages import group_advantages
from grpo_core.training.loss import TokenLoss, grpo_token_loss
from grpo_core.types import Adapter, Batch, Completion, PolicyVersion, StepMetrics

_PEFT_PREFIX = "base_model.model."


@dataclass
class _Totals:
    """Sums over the chosen tokens of all micro-batches, and where the time went."""

    loss: float = 0.0
    kl: float = 0.0
    entropy: float = 0.0
    num_clipped: int = 0
    ratio_max: float = 0.0
    num_model_tokens: int = 0
    num_micro_batches: int = 0
    forward_s: list[float] = field(default_factory=list)
    backward_s: list[float] = field(default_factory=list)


class Trainer:
    """Owns one copy of the policy, its adapter and the optimizer. ``version`` counts the updates since the base."""

    def __init__(
        self, policy: Policy, model: ModelConfig, training: TrainingConfig, *, run: str, seed: int = 0
    ) -> None:
        self._policy = policy
        self._model_config = model
        self._config = training
        self._run = run
        self._peft = attach_lora(policy, model, seed)
        self._parameters = [parameter for parameter in self._peft.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self._parameters, lr=training.learning_rate, weight_decay=0.0)
        self.version = 0
        self.num_forward_passes = 0
        policy.decoder.register_forward_pre_hook(self._count_forward)

    def _count_forward(self, module: torch.nn.Module, inputs: object) -> None:
        self.num_forward_passes += 1

    def step(self, batch: Batch) -> StepMetrics:
        """Update the adapter on ``batch``.

        Raises:
            BatchError: the batch cannot be trained on. Nothing has changed then.
        """
        check_batch(batch, self.version, needs_reference=self._config.kl_coefficient > 0)
        tokenizer_calls, forward_passes = num_tokenizer_calls(), self.num_forward_passes
        self._reset_peak_memory()
        self.optimizer.zero_grad(set_to_none=True)  # here, so that a step that broke off leaves nothing to the next
        completions, advantages = _flatten(batch, self._config)
        num_loss_tokens = int(sum(completion.completion_mask.sum() for completion in completions))
        totals = _Totals()
        packs = pack_completions(completions, share_prompts=self._config.packing == "shared_prefix")
        for micro_batch in split_packs(packs, self._config.micro_batch_tokens):
            self._accumulate(micro_batch, completions, advantages, num_loss_tokens, totals)
        start = self._now()
        with record_function("optimizer"):
            grad_norm = torch.nn.utils.clip_grad_norm_(self._parameters, self._config.max_grad_norm)
            self.optimizer.step()
        optimizer_s = self._now() - start
        self.version += 1
        rewards = [trajectory.reward for group in batch.groups for trajectory in group.trajectories]
        return StepMetrics(
            step=self.version,
            loss=totals.loss / num_loss_tokens,
            reward_mean=float(np.mean(rewards)),
            reward_std=float(np.std(rewards)),
            advantage_abs_mean=float(np.mean(np.abs(advantages))),
            kl=totals.kl / num_loss_tokens,
            entropy=totals.entropy / num_loss_tokens,
            ratio_max=totals.ratio_max,
            clip_fraction=totals.num_clipped / num_loss_tokens,
            grad_norm=float(grad_norm),
            num_sequences=len(completions),
            num_loss_tokens=num_loss_tokens,
            num_model_tokens=totals.num_model_tokens,
            num_padded_tokens=sum(completion.num_tokens for completion in completions),
            num_forward_passes=self.num_forward_passes - forward_passes,
            num_micro_batches=totals.num_micro_batches,
            num_tokenizer_calls=num_tokenizer_calls() - tokenizer_calls,
            loss_forward_ms=sum(totals.forward_s) * 1e3,
            backward_ms=sum(totals.backward_s) * 1e3,
            optimizer_ms=optimizer_s * 1e3,
            peak_memory_bytes=self._peak_memory_bytes(),
        )

    def _accumulate(
        self,
        packs: list[Pack],
        completions: list[Completion],
        advantages: np.ndarray,
        num_loss_tokens: int,
        totals: _Totals,
    ) -> None:
        """Forward and backward of one micro-batch; gradients add up."""
        batch = build_packed_batch(packs, completions, self._policy.vocab_size, self._policy.device)
        if len(batch.targets) == 0:
            return  # every token was forced: there is nothing to learn
        totals.num_model_tokens += batch.input_ids.numel()
        totals.num_micro_batches += 1
        start = self._now()
        with record_function("loss_forward"):
            scores = score_chosen(self._policy.decoder, self._policy.head, batch)
            terms = self._token_loss(batch, completions, advantages, scores.logprobs)
            loss = terms.loss.sum() / num_loss_tokens
        forward_end = self._now()
        with record_function("backward"):
            loss.backward()
        totals.forward_s.append(forward_end - start)
        totals.backward_s.append(self._now() - forward_end)
        totals.loss += float(terms.loss.detach().sum())
        totals.kl += float(terms.kl.sum()) if terms.kl is not None else 0.0
        totals.entropy += float(scores.entropy.sum())
        totals.num_clipped += int(terms.is_clipped.sum())
        totals.ratio_max = max(totals.ratio_max, float(terms.ratio.max()))

    def _token_loss(
        self, batch: PackedBatch, completions: list[Completion], advantages: np.ndarray, logprobs: Tensor
    ) -> TokenLoss:
        packed = [completions[member] for member in batch.order]
        masks = [completion.completion_mask for completion in packed]
        device = self._policy.device
        ref = None
        if self._config.kl_coefficient > 0:
            values = [completion.ref_logprobs for completion in packed if completion.ref_logprobs is not None]
            ref = torch.from_numpy(chosen_values(values, masks)).to(device)
        old = chosen_values((completion.sampling_logprobs for completion in packed), masks)
        return grpo_token_loss(
            logprobs,
            torch.from_numpy(old).to(device),
            ref,
            torch.from_numpy(advantages).to(device)[batch.members],
            clip_low=self._config.clip_low,
            clip_high=self._config.clip_high,
            kl_coefficient=self._config.kl_coefficient,
        )

    def adapter(self) -> Adapter:
        """A copy of the adapter as it is now, on the CPU."""
        tensors = {
            name.removeprefix(_PEFT_PREFIX): tensor.detach().float().cpu().clone().contiguous()
            for name, tensor in get_peft_model_state_dict(self._peft).items()
        }
        return Adapter(
            version=PolicyVersion(self._run, self.version),
            base_fingerprint=self._policy.fingerprint,
            rank=self._model_config.lora_rank,
            alpha=self._model_config.lora_alpha,
            target_modules=self._model_config.lora_targets,
            tensors=tensors,
        )

    def load_adapter(self, adapter: Adapter) -> None:
        """Continue from ``adapter``; the optimizer state is the caller's to restore.

        Raises:
            AdapterError: it is for another base model or of another shape.
        """
        mine = self.adapter()
        shapes = {name: tensor.shape for name, tensor in mine.tensors.items()}
        if adapter.base_fingerprint != mine.base_fingerprint or shapes != {
            name: tensor.shape for name, tensor in adapter.tensors.items()
        }:
            raise AdapterError(
                f"adapter {adapter.version.name} (base {adapter.base_fingerprint}, rank {adapter.rank}) does not fit "
                f"this model (base {mine.base_fingerprint}, rank {mine.rank}); use the one it was trained with"
            )
        set_peft_model_state_dict(
            self._peft, {f"{_PEFT_PREFIX}{name}": tensor for name, tensor in adapter.tensors.items()}
        )
        self.version = adapter.version.number

    def _now(self) -> float:
        """Seconds on a clock that has waited for the device."""
        if self._policy.device.type == "cuda":
            torch.cuda.synchronize(self._policy.device)
        return time.perf_counter()

    def _reset_peak_memory(self) -> None:
        if self._policy.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._policy.device)

    def _peak_memory_bytes(self) -> int:
        """Of the step on a GPU; of the process so far on a CPU."""
        if self._policy.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._policy.device)
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def check_batch(batch: Batch, version: int, *, needs_reference: bool) -> None:
    """
    Raises:
        BatchError: naming the group and the field that cannot be trained on.
    """
    trajectories = [trajectory for group in batch.groups for trajectory in group.trajectories]
    if not any(turn.completion_mask.any() for trajectory in trajectories for turn in trajectory.turns):
        raise BatchError(f"batch {batch.index}: no chosen token in it, nothing to train on; check the environment")
    for group in batch.groups:
        for trajectory in group.trajectories:
            where = f"batch {batch.index}, group {group.group_id}"
            if not np.isfinite(trajectory.reward):
                raise BatchError(f"{where}: reward {trajectory.reward} is not finite; mend the environment's rewards")
            for turn in trajectory.turns:
                _check_turn(turn, where, version, needs_reference)


def _check_turn(turn: Completion, where: str, version: int, needs_reference: bool) -> None:
    num = len(turn.completion_ids)
    if len(turn.prompt_ids) == 0:
        raise BatchError(f"{where}: prompt_ids is empty, nothing predicts the first token; give a prompt")
    if not num == len(turn.completion_mask) == len(turn.sampling_logprobs):
        raise BatchError(
            f"{where}: {num} completion_ids, {len(turn.completion_mask)} completion_mask, "
            f"{len(turn.sampling_logprobs)} sampling_logprobs; they must be equally long"
        )
    if turn.policy_version > version:
        raise BatchError(
            f"{where}: policy_version {turn.policy_version} is newer than the trainer's {version}; "
            "resume the trainer from that version or drop the batch"
        )
    if needs_reference and (turn.ref_logprobs is None or len(turn.ref_logprobs) != num):
        raise BatchError(f"{where}: ref_logprobs missing, kl_coefficient is above 0; collect with want_ref_logprobs")
    for name, values in (("sampling_logprobs", turn.sampling_logprobs), ("ref_logprobs", turn.ref_logprobs)):
        if values is not None and not np.isfinite(values).all():
            position = int(np.argmin(np.isfinite(values)))
            raise BatchError(f"{where}: {name} at {position} is not finite; collect it again")
    if turn.allowed_ids is not None:
        if len(turn.allowed_ids) != num:
            raise BatchError(f"{where}: allowed_ids of {len(turn.allowed_ids)} tokens, not {num}; collect it again")
        for position in np.flatnonzero(turn.completion_mask):
            if turn.completion_ids[position] not in turn.allowed_ids[int(position)]:
                raise BatchError(f"{where}: allowed_ids without the chosen token at {position}; collect it again")


def _flatten(batch: Batch, config: TrainingConfig) -> tuple[list[Completion], np.ndarray]:
    """All turns of the batch, and the advantage of the trajectory that each is of."""
    completions: list[Completion] = []
    advantages: list[float] = []
    for group, values in zip(batch.groups, group_advantages(batch.groups, config.advantages), strict=True):
        for trajectory, value in zip(group.trajectories, values, strict=True):
            completions.extend(trajectory.turns)
            advantages.extend([float(value)] * len(trajectory.turns))
    return completions, np.array(advantages, dtype=np.float32)
