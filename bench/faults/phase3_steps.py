"""Faults that the exact checks of phase 3 must detect: a step that computes something else, however fast."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from bench.faults.fault import Fault

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from grpo_core.training.forward.packing import PackedBatch
    from grpo_core.training.objective.objective import LossTerms, Objective
    from grpo_core.training.objective.selected_groups import SelectedGroups
    from grpo_core.training.objective.token_table import TokenLogprobs
    from grpo_core.training.stopwatch import Stopwatch
    from grpo_core.training.trainer import Trainer
    from grpo_core.types import Batch, Bool, Completion

LONG_TOKENS = 16
SLOW_S = 0.03


def _remask(patch: pytest.MonkeyPatch, mask: Callable[[Bool], Bool]) -> None:
    """The step trains on completions whose masks are ``mask`` of what they were."""
    from grpo_core.training import trainer

    original = trainer.select_groups

    def completion(turn: Completion) -> Completion:
        return replace(turn, completion_mask=mask(turn.completion_mask))

    def select_groups(groups: Any, **options: Any) -> SelectedGroups:
        part = original(groups, **options)
        changed = tuple(
            replace(
                group,
                trajectories=tuple(
                    replace(each, turns=tuple(map(completion, each.turns))) for each in group.trajectories
                ),
            )
            for group in part.groups
        )
        return replace(part, groups=changed)

    patch.setattr(trainer, "select_groups", select_groups)


def half_without_loss(patch: pytest.MonkeyPatch) -> None:
    """The second half of each completion has no loss."""
    import numpy as np

    _remask(patch, lambda mask: mask & (np.arange(len(mask)) < (len(mask) + 1) // 2))


def stop_without_loss(patch: pytest.MonkeyPatch) -> None:
    """The last token of each completion, the stop, has no loss."""
    import numpy as np

    _remask(patch, lambda mask: mask & ((np.arange(len(mask)) < len(mask) - 1) | (len(mask) == 1)))


def long_without_loss(patch: pytest.MonkeyPatch) -> None:
    """Tokens beyond the sixteenth have no loss: a buffer has that length."""
    import numpy as np

    _remask(patch, lambda mask: mask & (np.arange(len(mask)) < LONG_TOKENS))


def sampled_tokens_not_chosen(patch: pytest.MonkeyPatch) -> None:
    """The engine says of every second token that a constraint forced it."""
    from grpo_core.rollout.torch_engine.engine import TorchEngine

    original = TorchEngine.generate

    def generate(self: TorchEngine, requests: Any) -> list[Completion]:
        import numpy as np

        return [
            replace(each, completion_mask=each.completion_mask & (np.arange(len(each.completion_mask)) % 2 == 0))
            for each in original(self, requests)
        ]

    patch.setattr(TorchEngine, "generate", generate)


def two_scoring_passes(patch: pytest.MonkeyPatch) -> None:
    """Old and reference log-probabilities are scored anew before each update, and thrown away."""
    from grpo_core.training import trainer
    from grpo_core.training.batches.micro_batches import own_sequences
    from grpo_core.training.scoring import score_completions

    original = trainer.find_logprobs

    def find_logprobs(policy: Any, trained: Any, part: SelectedGroups, config: Any, ranks: Any) -> TokenLogprobs:
        for _ in range(2):
            score_completions(policy, part.completions, own_sequences(part, ranks), config, ranks)
        return original(policy, trained, part, config, ranks)

    patch.setattr(trainer, "find_logprobs", find_logprobs)


def tenfold_normalisation(patch: pytest.MonkeyPatch) -> None:
    """The loss is ten times too large: the normalisation divides by a tenth of the tokens."""
    from grpo_core.training.objective import objective

    original = objective.token_mean_weights
    patch.setattr(objective, "token_mean_weights", lambda lengths: 10 * original(lengths))


def tenfold_advantages(patch: pytest.MonkeyPatch) -> None:
    """Advantages are ten times too large."""
    from grpo_core.training.objective import objective

    original = objective.group_advantages
    patch.setattr(objective, "group_advantages", lambda groups, scale: [10 * each for each in original(groups, scale)])


def tenfold_gradient(patch: pytest.MonkeyPatch) -> None:
    """The loss that is reported is right, its gradient is ten times too large: a loss scale that is never undone."""
    from grpo_core.training.trainer import Trainer

    original = Trainer._forward

    def forward(self: Trainer, batch: PackedBatch, objective: Objective, times: Stopwatch) -> LossTerms:
        terms = original(self, batch, objective, times)
        return replace(terms, loss=terms.loss + 9 * (terms.loss - terms.loss.detach()))

    patch.setattr(Trainer, "_forward", forward)


def tenfold_after_clipping(patch: pytest.MonkeyPatch) -> None:
    """The gradient is multiplied by ten after its norm was measured and clipped."""

    def multiply(trainer: Trainer) -> None:
        for parameter in trainer.trained.parameters:
            assert parameter.grad is not None
            parameter.grad.mul_(10)

    _before_update(patch, multiply)


def tenfold_kl(patch: pytest.MonkeyPatch) -> None:
    """The KL term weighs ten times as much."""
    from grpo_core.training.objective import objective

    original = objective.KL_ESTIMATORS["k3"]
    patch.setitem(objective.KL_ESTIMATORS, "k3", lambda policy, reference: 10 * original(policy, reference))


def kl_to_the_sampler(patch: pytest.MonkeyPatch) -> None:
    """The KL term is to the policy that sampled, not to the base model."""
    from grpo_core.training import trainer

    original = trainer.find_logprobs

    def find_logprobs(*given: Any) -> TokenLogprobs:
        found = original(*given)
        return replace(found, reference=found.old)

    patch.setattr(trainer, "find_logprobs", find_logprobs)


def ratio_never_clipped(patch: pytest.MonkeyPatch) -> None:
    """The ratio of the surrogate has no bounds."""
    from grpo_core.training.objective import objective

    original = objective.clipped_surrogate

    def clipped_surrogate(ratio: Tensor, advantages: Tensor, **bounds: Any) -> Any:
        return original(ratio, advantages, clip_low=1.0, clip_high=1e9)

    patch.setattr(objective, "clipped_surrogate", clipped_surrogate)


def mean_of_means(patch: pytest.MonkeyPatch) -> None:
    """The loss is the mean over sequences of the mean over their tokens, not over all tokens."""
    from grpo_core.training.objective import objective

    patch.setattr(objective, "token_mean_weights", objective.sequence_mean_weights)


def population_deviation(patch: pytest.MonkeyPatch) -> None:
    """Advantages divide by the deviation of the population, not of the sample."""
    from grpo_core.training import advantages

    patch.setattr(advantages, "_spread", lambda values: float(values.std()))


def last_micro_batch_counts(patch: pytest.MonkeyPatch) -> None:
    """Gradients are cleared before each micro-batch: only the last one trains."""
    from grpo_core.training.trainer import Trainer

    original = Trainer._accumulate

    def accumulate(self: Trainer, *given: Any) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        original(self, *given)

    patch.setattr(Trainer, "_accumulate", accumulate)


def _before_update(patch: pytest.MonkeyPatch, act: Callable[[Trainer], None]) -> None:
    """``act`` runs between clipping and the optimizer's step."""
    _with_optimizer(patch, lambda trainer: trainer.optimizer.register_step_pre_hook(lambda *given: act(trainer)))


def _with_optimizer(patch: pytest.MonkeyPatch, change: Callable[[Trainer], object]) -> None:
    from grpo_core.training.trainer import Trainer

    original = Trainer.__init__

    def init(self: Trainer, *given: Any, **options: Any) -> None:
        original(self, *given, **options)
        change(self)

    patch.setattr(Trainer, "__init__", init)


def update_skipped(patch: pytest.MonkeyPatch) -> None:
    """The optimizer never steps: all is computed, and nothing learnt."""
    _with_optimizer(patch, lambda trainer: patch.setattr(trainer.optimizer, "step", lambda: None))


def gradient_stale(patch: pytest.MonkeyPatch) -> None:
    """Gradients are never cleared: each step takes the sum of all before it."""
    _with_optimizer(patch, lambda trainer: patch.setattr(trainer.optimizer, "zero_grad", lambda **options: None))


def moments_forgotten(patch: pytest.MonkeyPatch) -> None:
    """The optimizer's state is lost between steps."""
    _before_update(patch, lambda trainer: trainer.optimizer.state.clear())


def default_weight_decay(patch: pytest.MonkeyPatch) -> None:
    """The optimizer has torch's default weight decay, which pulls the adapter to zero."""
    _with_optimizer(patch, lambda trainer: trainer.optimizer.param_groups[0].update(weight_decay=0.01))


def other_moment_decay(patch: pytest.MonkeyPatch) -> None:
    """The second moment decays by 0.98, not by 0.999."""
    _with_optimizer(patch, lambda trainer: trainer.optimizer.param_groups[0].update(betas=(0.9, 0.98)))


def tenfold_learning_rate(patch: pytest.MonkeyPatch) -> None:
    """The optimizer's learning rate is ten times the configured one."""

    def multiply(trainer: Trainer) -> None:
        trainer.learning_rate *= 10

    _with_optimizer(patch, multiply)


def gradient_never_clipped(patch: pytest.MonkeyPatch) -> None:
    """The norm of the gradient is reported and never clipped."""
    import torch

    original = torch.nn.utils.clip_grad_norm_
    patch.setattr(torch.nn.utils, "clip_grad_norm_", lambda parameters, max_norm: original(parameters, float("inf")))


def first_layer_frozen(patch: pytest.MonkeyPatch) -> None:
    """The adapter of the first layer never changes: its parameters are left out of the optimizer."""
    from grpo_core.training.tuning import lora

    original = lora.attach_lora

    def attach_lora(policy: Any, config: Any, seed: int) -> nn.Module:
        model = original(policy, config, seed)
        for name, parameter in model.named_parameters():
            if ".layers.0." in name:
                parameter.requires_grad_(False)
        return model

    patch.setattr(lora, "attach_lora", attach_lora)


def attention_gradient_dropped(patch: pytest.MonkeyPatch) -> None:
    """The backward pass of attention gives no gradient to the keys: the forward pass is right."""
    from grpo_core.training.forward.tree_attention import TreePlan

    original = TreePlan.attend

    def attend(self: TreePlan, layer: int, queries: Tensor, keys: Tensor, values: Tensor, scaling: float) -> Tensor:
        return original(self, layer, queries, keys.detach(), values, scaling)

    patch.setattr(TreePlan, "attend", attend)


def last_group_dropped(patch: pytest.MonkeyPatch) -> None:
    """The last group of each batch is left out, and the step reports its metrics without it."""
    from grpo_core.training import trainer

    original = trainer.select_groups

    def select_groups(groups: Sequence[Any], **options: Any) -> SelectedGroups:
        return original(tuple(groups)[:-1] if len(groups) > 1 else tuple(groups), **options)

    patch.setattr(trainer, "select_groups", select_groups)


def slow_learning_rate(patch: pytest.MonkeyPatch) -> None:
    """The learning rate takes 30 ms to compute, in no span."""
    from grpo_core.training.optimizer.learning_rate import LearningRateSchedule

    original = LearningRateSchedule.share

    def share(self: LearningRateSchedule, index: int) -> float:
        time.sleep(SLOW_S)
        return original(self, index)

    patch.setattr(LearningRateSchedule, "share", share)


def batch_checked_slowly(patch: pytest.MonkeyPatch) -> None:
    """A check of the batch takes 90 ms, in a span that the step tells."""
    from grpo_core.training import trainer

    original = trainer.check_batch

    def check_batch(batch: Batch, *given: Any) -> None:
        time.sleep(3 * SLOW_S)
        original(batch, *given)

    patch.setattr(trainer, "check_batch", check_batch)


def weights_copied_each_step(patch: pytest.MonkeyPatch) -> None:
    """After the last micro-batch all weights of the model are copied, for a log of their norms."""
    from grpo_core.training.distributed.ranks import SingleProcess

    original = SingleProcess.total
    policies: list[Any] = []
    _with_optimizer(patch, lambda trainer: policies.append(trainer._policy))

    def total(self: SingleProcess, values: np.ndarray) -> np.ndarray:
        for _ in range(8):
            for parameter in policies[-1].model.parameters():
                float(parameter.detach().double().norm())
        return original(self, values)

    patch.setattr(SingleProcess, "total", total)


FAULTS = (
    Fault(3, ("tokens_without_loss", "loss_error", "gradient_error"), half_without_loss),
    Fault(3, ("tokens_without_loss", "loss_error"), stop_without_loss),
    Fault(3, ("tokens_without_loss", "loss_error"), long_without_loss),
    Fault(3, ("tokens_without_loss",), sampled_tokens_not_chosen),
    Fault(3, ("forward_passes_per_micro_batch",), two_scoring_passes),
    Fault(3, ("loss_error", "gradient_error"), tenfold_normalisation),
    Fault(3, ("loss_error", "gradient_error"), tenfold_advantages),
    Fault(3, ("gradient_error",), tenfold_gradient),
    Fault(3, ("gradient_error",), tenfold_after_clipping),
    Fault(3, ("loss_error", "gradient_error"), tenfold_kl),
    Fault(3, ("loss_error", "gradient_error"), kl_to_the_sampler),
    Fault(3, ("loss_error", "gradient_error"), ratio_never_clipped),
    Fault(3, ("loss_error", "gradient_error"), mean_of_means),
    Fault(3, ("loss_error", "gradient_error"), population_deviation),
    Fault(3, ("gradient_error",), last_micro_batch_counts),
    Fault(3, ("weights_update_error",), update_skipped),
    Fault(3, ("gradient_error", "weights_update_error"), gradient_stale),
    Fault(3, ("weights_update_error",), moments_forgotten),
    Fault(3, ("weights_update_error",), default_weight_decay),
    Fault(3, ("weights_update_error",), other_moment_decay),
    Fault(3, ("weights_update_error",), tenfold_learning_rate),
    Fault(3, ("gradient_error",), gradient_never_clipped),
    Fault(3, ("gradient_error", "weights_update_error"), first_layer_frozen),
    Fault(3, ("gradient_error",), attention_gradient_dropped),
    Fault(3, ("tokens_without_loss", "loss_error"), last_group_dropped),
    Fault(3, ("unaccounted_share",), slow_learning_rate),
    Fault(3, ("outside_passes_share",), batch_checked_slowly),
    Fault(3, ("outside_passes_share",), weights_copied_each_step),
)
