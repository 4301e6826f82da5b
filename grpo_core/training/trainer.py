"""One GRPO update: tokenized trajectories in, one forward pass per micro-batch, updated weights out."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from grpo_core.config import ModelConfig, TrainingConfig
from grpo_core.model.policy import Policy
from grpo_core.model.tokenizer import num_tokenizer_calls
from grpo_core.training.batches.check import check_batch
from grpo_core.training.batches.micro_batches import own_micro_batches, own_sequences
from grpo_core.training.batches.mini_batches import MiniBatch, split_batch
from grpo_core.training.distributed.ranks import Ranks, SingleProcess
from grpo_core.training.distributed.sharding import shard_layers
from grpo_core.training.forward.packing import PackedBatch, score_chosen
from grpo_core.training.forward.proof import prove_packing
from grpo_core.training.metrics import StepFacts, StepSums, peak_memory_bytes, reset_peak_memory, step_metrics
from grpo_core.training.nonfinite import FiniteWatch, trajectory_names
from grpo_core.training.objective.objective import LossTerms, Objective, sequence_advantages
from grpo_core.training.objective.selected_groups import SelectedGroups, select_groups
from grpo_core.training.objective.token_table import TokenLogprobs
from grpo_core.training.optimizer.learning_rate import LearningRateSchedule
from grpo_core.training.optimizer.optimizers import open_optimizer
from grpo_core.training.precision import autocast, recompute_activations
from grpo_core.training.scoring import find_logprobs
from grpo_core.training.stopwatch import Stopwatch
from grpo_core.training.tuning.protocol import open_trained_weights
from grpo_core.training.utilization.flops import ModelCost
from grpo_core.types import Batch, Packing, PolicyVersion, PolicyWeights, StepMetrics

logger = logging.getLogger(__name__)

OnMicroBatch = Callable[[PackedBatch, LossTerms], None]


class Trainer:
    """Owns one copy of the policy, the weights of it that are trained, and the optimizer.

    ``version`` counts the batches since the base model. An update whose loss or gradient is non-finite (NaN or inf) is
    skipped; a step of which all are has the weights of the version before. So step k always trains on batch k.
    """

    def __init__(
        self,
        policy: Policy,
        model: ModelConfig,
        training: TrainingConfig,
        *,
        run: str,
        seed: int = 0,
        num_steps: int | None = None,
        ranks: Ranks | None = None,
        on_micro_batch: OnMicroBatch | None = None,
    ) -> None:
        """``num_steps`` is the step at which a learning rate that falls has fallen.
        With ``ranks``, this is one of several processes that train the same policy together.

        ``on_micro_batch`` gets the loss terms of every micro-batch after its backward pass, for what metrics omit.
        """
        self._policy = policy
        self._run = run
        self._on_micro_batch = on_micro_batch
        self.ranks: Ranks = ranks if ranks is not None else SingleProcess()
        bare = ModelCost.of(policy, num_adapter_weights=0, is_full=training.method == "full")
        self.trained = open_trained_weights(policy, model, training, seed)
        self._parameters = list(self.trained.parameters)
        num_adapter_weights = 0 if bare.is_full else sum(parameter.numel() for parameter in self._parameters)
        self._cost = replace(bare, num_adapter_weights=num_adapter_weights)
        self.packing: Packing = prove_packing(policy, training.packing)  # before the weights are sharded
        self._config = training.model_copy(update={"packing": self.packing})
        if training.shard_base_weights and self.ranks.size > 1:
            shard_layers(policy, self._parameters)
        if training.gradient_checkpointing:
            recompute_activations(policy)
        self.learning_rate = training.learning_rate_for(policy.hidden_size)  # of which each step has a share
        self._schedule = LearningRateSchedule(training, num_steps)
        self.optimizer = open_optimizer(policy, self._parameters, training, self.learning_rate)
        self.version = 0
        self.num_skipped_steps = 0
        self.num_forward_passes = 0
        policy.decoder.register_forward_pre_hook(self._count_forward)

    @property
    def device(self) -> torch.device:
        return self._policy.device

    @property
    def compute_dtype(self) -> torch.dtype:
        """The number type of the matrix products."""
        return torch.bfloat16 if self._config.precision == "bfloat16" else torch.float32

    @property
    def num_layer_weights(self) -> int:
        """Weights of the linear maps of all layers, without the head and the adapter."""
        return self._cost.num_linear_weights

    @property
    def hidden_size(self) -> int:
        """The width of the model; the default learning rate depends on it."""
        return self._policy.hidden_size

    @property
    def base_fingerprint(self) -> str:
        """``Policy.fingerprint`` of the base weights."""
        return self._policy.fingerprint

    def _count_forward(self, module: torch.nn.Module, inputs: object) -> None:
        self.num_forward_passes += 1

    def step(self, batch: Batch) -> StepMetrics:
        """Update the weights on ``batch``, ``updates_per_batch`` times.

        Raises:
            BatchError: the batch cannot be trained on. Nothing has changed then.
        """
        times, tokenizer_calls = Stopwatch(self._policy.device), num_tokenizer_calls()
        reset_peak_memory(self._policy.device)
        with times.part("layout"):
            check_batch(batch, self.version, self._config, self._policy.vocab_size)
            config, num_tries = self._config, self._config.updates_per_batch
            part = select_groups(batch.groups, drop_zero_variance=config.drop_zero_variance_groups)
            sums = StepSums()
        logprobs = self._find_logprobs(part, sums, times)
        with times.part("layout"):
            advantages = sequence_advantages(part, logprobs, config)
            mini_batches = split_batch(part, logprobs, advantages, config)
        learning_rate = self._set_learning_rate()
        self._update(mini_batches[0], sums, times)
        for index in range(1, num_tries):
            later = StepSums()
            self._update(mini_batches[index % len(mini_batches)], later, times)
            sums.join(later)
        self.version += 1
        facts = StepFacts(
            step=self.version,
            learning_rate=learning_rate,
            packing=self.packing,
            num_passes=num_tries // len(mini_batches),
            num_tries=num_tries,
            num_tokenizer_calls=num_tokenizer_calls() - tokenizer_calls,
            peak_memory_bytes=peak_memory_bytes(self._policy.device),
        )
        with times.part("sums"):
            metrics = step_metrics(facts, batch, part, advantages, sums, times, self._cost)
        metrics = replace(metrics, sums_ms=times.total_ms("sums"))
        self.num_skipped_steps += metrics.is_skipped
        return metrics

    def _set_learning_rate(self) -> float:
        """Give the optimizer the rate of the step that begins."""
        rate = self.learning_rate * self._schedule.share(self.version)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def _update(self, batch: MiniBatch, sums: StepSums, times: Stopwatch) -> None:
        """One update: all micro-batches of ``batch``, and the optimizer's step."""
        watch = FiniteWatch()
        self.optimizer.zero_grad(set_to_none=True)  # here: a step that raised may have left gradients
        completions = batch.part.completions
        with times.part("layout"):
            own = own_sequences(batch.part, self.ranks)
        micro_batches = own_micro_batches(self._policy, completions, own, self._config, self.ranks)
        for packed in times.parts("layout", micro_batches):
            self._accumulate(packed, batch.objective, sums, times, watch)
        with times.part("gradient_sum"):
            self.ranks.add_up_gradients(self._parameters)
        with times.part("sums"):
            sums.add_up(self.ranks)
        if self._apply_gradients(sums, times):
            return
        sums.num_skipped_updates = 1
        suspects = self.ranks.total(watch.suspects(len(completions)).astype(np.float64)) > 0
        sums.nonfinite_trajectories = trajectory_names(batch.part, suspects)
        logger.warning(
            "%s is skipped, its loss or gradient is non-finite (NaN or inf): %s",
            f"step {self.version + 1}"
            if self._config.updates_per_batch == 1
            else f"an update of step {self.version + 1}",
            sums.nonfinite_trajectories or "the sum of all",
        )

    def _find_logprobs(self, part: SelectedGroups, sums: StepSums, times: Stopwatch) -> TokenLogprobs:
        """The log-probabilities that came with ``part``; those that are missing and needed, from scoring passes."""
        passes = self.num_forward_passes
        with times.part("scoring"), autocast(self._policy.device, self._config.precision):
            logprobs = find_logprobs(self._policy, self.trained, part, self._config, self.ranks)
        sums.num_scoring_passes = self.num_forward_passes - passes
        return logprobs

    def _accumulate(
        self, batch: PackedBatch, objective: Objective, sums: StepSums, times: Stopwatch, watch: FiniteWatch
    ) -> None:
        """Forward and backward of one micro-batch; gradients add up."""
        passes = self.num_forward_passes
        with times.part("loss_forward"), autocast(self._policy.device, self._config.precision):
            terms = self._forward(batch, objective, times)
        sums.num_forward_passes += self.num_forward_passes - passes
        with times.part("backward"):
            terms.loss.backward()
        with times.part("sums"):
            watch.add(batch, terms, self._parameters)
            if self._on_micro_batch is not None:
                self._on_micro_batch(batch, terms)
            sums.add(terms, num_model_tokens=batch.input_ids.numel())
            sums.flops += self._cost.step_flops(batch)
            del terms  # here: freeing what the passes left takes time, too

    def _forward(self, batch: PackedBatch, objective: Objective, times: Stopwatch) -> LossTerms:
        """The one forward pass of a micro-batch."""
        scores = score_chosen(
            self._policy.decoder,
            self._policy.head,
            batch,
            entropy_gradient=self._config.entropy_coefficient > 0,
            time_gradient=partial(times.part, "head_gradient"),
        )
        return objective.terms(batch, scores)

    def _apply_gradients(self, sums: StepSums, times: Stopwatch) -> bool:
        """Make the optimizer's step; not where loss or gradient is non-finite, which it returns, and not without a
        gradient: momentum alone would move the weights."""
        with times.part("optimizer"):
            sums.grad_norm = float(torch.nn.utils.clip_grad_norm_(self._parameters, self._config.max_grad_norm))
            is_finite = math.isfinite(sums.grad_norm) and math.isfinite(sums.loss)
            if is_finite and sums.grad_norm > 0:
                self.optimizer.step()
                sums.num_updates = 1
            else:
                self.optimizer.zero_grad(set_to_none=True)
        return is_finite

    def weights(self) -> PolicyWeights:
        """A copy of the trained weights, on the CPU."""
        return self.trained.read(PolicyVersion(self._run, self.version))

    def load_weights(self, weights: PolicyWeights) -> None:
        """Continue from ``weights``; the optimizer state is the caller's to restore.

        Raises:
            AdapterError: they are for another base model, of another method or shape.
        """
        self.trained.write(weights)
        self.version = weights.version.number
