"""One GRPO update: pre-tokenized trajectories in, one forward pass per micro-batch, a changed adapter out."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Sequence

import torch
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from torch.autograd.profiler import record_function

from grpo_core.config import ModelConfig, TrainingConfig
from grpo_core.errors import AdapterError
from grpo_core.model import Policy, attach_lora, num_tokenizer_calls
from grpo_core.packing import Pack, PackedBatch, build_packed_batch, pack_completions, score_chosen, split_packs
from grpo_core.training.batch_check import check_batch
from grpo_core.training.objective.known import KnownLogprobs
from grpo_core.training.objective.objective import LossTerms, Objective
from grpo_core.training.objective.trained_part import select_groups
from grpo_core.training.scoring import find_logprobs
from grpo_core.training.step_sums import StepSums, step_metrics
from grpo_core.types import Adapter, Batch, Completion, PolicyVersion, StepMetrics

_PEFT_PREFIX = "base_model.model."


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
        self.num_skipped_steps = 0
        self.num_forward_passes = 0
        policy.decoder.register_forward_pre_hook(self._count_forward)

    def _count_forward(self, module: torch.nn.Module, inputs: object) -> None:
        self.num_forward_passes += 1

    def step(self, batch: Batch) -> StepMetrics:
        """Update the adapter on ``batch``.

        Raises:
            BatchError: the batch cannot be trained on. Nothing has changed then.
        """
        check_batch(batch, self.version, self._config, self._policy.vocab_size)
        sums = StepSums()
        tokenizer_calls = num_tokenizer_calls()
        self._reset_peak_memory()
        self.optimizer.zero_grad(set_to_none=True)  # here, so that a step that broke off leaves nothing to the next
        part = select_groups(batch.groups, drop_zero_variance=self._config.drop_zero_variance_groups)
        completions = part.completions
        known = self._find_logprobs(completions, sums)
        objective = Objective(part, known, self._config)
        packs = pack_completions(completions, share_prompts=self._config.packing == "shared_prefix")
        passes = self.num_forward_passes
        for micro_batch in split_packs(packs, self._config.micro_batch_tokens):
            self._accumulate(micro_batch, completions, objective, sums)
        sums.num_forward_passes = self.num_forward_passes - passes
        sums.grad_norm = self._update(sums)
        self.version += 1
        sums.num_tokenizer_calls = num_tokenizer_calls() - tokenizer_calls
        sums.peak_memory_bytes = self._peak_memory_bytes()
        return step_metrics(self.version, batch, part, objective, sums)

    def _find_logprobs(self, completions: Sequence[Completion], sums: StepSums) -> KnownLogprobs:
        """Those that came with ``completions``, and from passes of their own those that did not and are needed."""
        start, passes = self._now(), self.num_forward_passes
        with record_function("scoring"):
            known = find_logprobs(self._policy, self._peft, completions, self._config)
        sums.scoring_s = self._now() - start
        sums.num_scoring_passes = self.num_forward_passes - passes
        return known

    def _accumulate(
        self, packs: list[Pack], completions: Sequence[Completion], objective: Objective, sums: StepSums
    ) -> None:
        """Forward and backward of one micro-batch; gradients add up."""
        batch = build_packed_batch(packs, completions, self._policy.vocab_size, self._policy.device)
        if len(batch.targets) == 0:
            return  # every token was forced: there is nothing to learn
        start = self._now()
        with record_function("loss_forward"):
            terms = self._forward(batch, objective)
        forward_end = self._now()
        with record_function("backward"):
            terms.loss.backward()
        sums.forward_s += forward_end - start
        sums.backward_s += self._now() - forward_end
        sums.add(terms, num_model_tokens=batch.input_ids.numel())

    def _forward(self, batch: PackedBatch, objective: Objective) -> LossTerms:
        """The one forward pass of a micro-batch."""
        entropy_gradient = self._config.entropy_coefficient > 0
        scores = score_chosen(self._policy.decoder, self._policy.head, batch, entropy_gradient=entropy_gradient)
        return objective.terms(batch, scores)

    def _update(self, sums: StepSums) -> float:
        """The optimizer's step; the norm of the gradient before it is clipped."""
        start = self._now()
        with record_function("optimizer"):
            grad_norm = torch.nn.utils.clip_grad_norm_(self._parameters, self._config.max_grad_norm)
            self.optimizer.step()
        sums.optimizer_s = self._now() - start
        return float(grad_norm)

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
