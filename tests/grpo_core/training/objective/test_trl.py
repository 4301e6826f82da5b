"""TRL's ``GRPOTrainer`` computes the same loss from the same tensors: an oracle of every choice that both have."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor

if TYPE_CHECKING:
    from tests.grpo_core.training.objective.conftest import Evaluated, MakeStep, Step

pytest.importorskip("trl", reason="the extra trl is not installed")

TOLERANCE = 1e-5
MakeTrl = Callable[..., Any]


@pytest.fixture(scope="module")
def make_trl(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeTrl]:
    """A ``GRPOTrainer`` that reads log-probabilities and entropies from its inputs instead of a model."""
    from datasets import Dataset  # pyright: ignore[reportMissingImports]
    from transformers import AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer  # pyright: ignore[reportAttributeAccessIssue, reportMissingImports]

    tokenizer = AutoTokenizer.from_pretrained(model_folder, padding_side="left")

    def make(**options: Any) -> Any:
        config = GRPOConfig(
            output_dir=str(tmp_path_factory.mktemp("trl")),
            report_to="none",
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            model_init_kwargs={"dtype": "float32"},
            per_device_train_batch_size=2,
            num_generations=2,
            **{"use_bias_correction_kl": False, **options},
        )
        trainer = GRPOTrainer(
            str(model_folder),
            reward_funcs=lambda completions, **columns: [0.0] * len(completions),
            args=config,
            train_dataset=Dataset.from_dict({"prompt": ["unused"]}),
            processing_class=tokenizer,
        )
        trainer.current_gradient_accumulation_steps = 1
        trainer.model.train()
        return trainer

    with torch.random.fork_rng(devices=[]):  # TRL seeds the whole process
        yield make


def padded(step: Step, values: Any) -> Tensor:
    """[B, R]: a column [C] of ``step`` at its places in the completions, 0 elsewhere."""
    completions = step.part.completions
    bounds = np.concatenate([[0], np.cumsum(step.lengths)])
    rows = torch.zeros(len(completions), max(len(turn.completion_ids) for turn in completions), dtype=torch.float64)
    for index, turn in enumerate(completions):
        places = torch.from_numpy(np.flatnonzero(turn.completion_mask))
        rows[index, places] = torch.as_tensor(values[bounds[index] : bounds[index + 1]], dtype=torch.float64)
    return rows


def trl_loss(trainer: Any, step: Step, advantages: Any, **inputs: Tensor) -> tuple[float, Tensor, Tensor]:
    """The loss, and its gradients [C] to log-probabilities and entropies."""
    logprobs, entropy = (torch.tensor(values, requires_grad=True) for values in (step.logprobs, step.entropy))
    mask = padded(step, np.ones(len(step.logprobs)))
    is_overlong = [t.turns[-1].finish_reason == "length" for t in step.part.trajectories]
    mask = mask * ~torch.tensor(is_overlong)[:, None]
    places = torch.from_numpy(np.concatenate([turn.completion_mask for turn in step.part.completions]))
    lengths = [len(turn.completion_ids) for turn in step.part.completions]
    inside = torch.arange(mask.shape[1])[None] < torch.tensor(lengths)[:, None]
    chosen = inside.clone()
    chosen[inside] = places

    def rows(values: Tensor) -> Tensor:
        return torch.zeros_like(mask).masked_scatter(chosen, values)

    scored = (rows(logprobs), rows(entropy), None)
    trainer._get_per_token_logps_and_entropies = lambda *args, **kwargs: scored
    batch = {
        "prompt_ids": torch.ones(len(mask), 1, dtype=torch.long),
        "prompt_mask": torch.ones(len(mask), 1, dtype=torch.long),
        "completion_ids": torch.ones(mask.shape, dtype=torch.long),
        "completion_mask": inside.long(),
        "tool_mask": mask.long(),
        "num_items_in_batch": mask.sum(),
        "advantages": torch.as_tensor(advantages),
        "old_per_token_logps": padded(step, step.known.old),
        "ref_per_token_logps": padded(step, step.known.reference),
        **inputs,
    }
    loss = trainer._compute_loss(trainer.model, batch)
    to_logprobs, to_entropy = torch.autograd.grad(loss, [logprobs, entropy], allow_unused=True, materialize_grads=True)
    return loss.item(), to_logprobs, to_entropy


def assert_same(ours: Evaluated, theirs: tuple[float, Tensor, Tensor]) -> None:
    assert abs(ours.loss - theirs[0]) < TOLERANCE
    assert float((ours.gradient - theirs[1]).abs().max()) < TOLERANCE
    assert float((ours.entropy_gradient - theirs[2]).abs().max()) < TOLERANCE
    assert float(ours.gradient.abs().max()) > 1e-3


CASES = {
    "grpo": ({"loss": "grpo"}, {"loss_type": "grpo"}),
    "dr_grpo": ({"loss": "dr_grpo", "loss_length_tokens": 9}, {"loss_type": "dr_grpo", "max_completion_length": 9}),
    "dapo": ({"loss": "dapo"}, {"loss_type": "dapo"}),
    "bnpo": ({"loss": "bnpo"}, {"loss_type": "bnpo"}),
    "gspo": ({"loss": "gspo"}, {"loss_type": "grpo", "importance_sampling_level": "sequence"}),
    "cispo": ({"loss": "cispo", "clip_high": 0.25}, {"loss_type": "cispo", "epsilon_high": 1.25}),
    "sapo": (
        {"loss": "sapo", "sapo_temperature_positive": 0.9, "sapo_temperature_negative": 1.3},
        {"loss_type": "sapo", "sapo_temperature_pos": 0.9, "sapo_temperature_neg": 1.3},
    ),
    "asymmetric": ({"clip_low": 0.1, "clip_high": 0.28}, {"epsilon": 0.1, "epsilon_high": 0.28}),
    "dual": ({"clip_dual": 1.4}, {"delta": 1.4}),
    "kl": ({"kl_coefficient": 0.3}, {"beta": 0.3}),
    "kl of grpo": ({"loss": "grpo", "kl_coefficient": 0.3}, {"loss_type": "grpo", "beta": 0.3}),
    **{
        f"corrected kl of {loss}": (
            {"loss": loss, "kl_coefficient": 0.3, "kl_bias_correction": True},
            {"loss_type": loss, "beta": 0.3, "use_bias_correction_kl": True},
        )
        for loss in ("dapo", "grpo", "sapo")
    },
    "corrected kl of cispo": (
        {"loss": "cispo", "clip_high": 0.25, "kl_coefficient": 0.3, "kl_bias_correction": True},
        {"loss_type": "cispo", "epsilon_high": 1.25, "beta": 0.3, "use_bias_correction_kl": True},
    ),
    "corrected kl and dual clip, recomputed": (
        {"kl_coefficient": 0.3, "kl_bias_correction": True, "clip_dual": 1.4, "old_logprobs": "recomputed"},
        {"beta": 0.3, "use_bias_correction_kl": True, "delta": 1.4},
    ),
    "entropy bonus": ({"entropy_coefficient": 0.2}, {"entropy_coef": 0.2}),
    "entropy bonus of grpo": (
        {"loss": "grpo", "entropy_coefficient": 0.2},
        {"loss_type": "grpo", "entropy_coef": 0.2},
    ),
    "entropy mask": ({"top_entropy_share": 0.4, "old_logprobs": "recomputed"}, {"top_entropy_quantile": 0.4}),
    "entropy mask, bonus and KL": (
        {
            "top_entropy_share": 0.3,
            "old_logprobs": "recomputed",
            "entropy_coefficient": 0.2,
            "kl_coefficient": 0.1,
        },
        {"top_entropy_quantile": 0.3, "entropy_coef": 0.2, "beta": 0.1},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_loss_and_its_gradient_are_those_of_trl(name: str, make_step: MakeStep, make_trl: MakeTrl) -> None:
    ours, theirs = CASES[name]
    trainer = make_trl(**theirs)
    for seed in range(3):
        step = make_step(seed, recomputed=ours.get("old_logprobs") == "recomputed")
        found = step.evaluate(**ours)
        assert_same(found, trl_loss(trainer, step, found.advantages))


def test_overlong_masking_is_that_of_trl(make_step: MakeStep, make_trl: MakeTrl) -> None:
    trainer = make_trl(loss_type="dapo", beta=0.1, entropy_coef=0.1)
    step = make_step(overlong=(1, 4))
    found = step.evaluate(mask_overlong=True, kl_coefficient=0.1, entropy_coefficient=0.1)

    assert_same(found, trl_loss(trainer, step, found.advantages))


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("how", ["truncate", "mask"])
def test_the_mismatch_correction_goes_where_trl_puts_it(
    level: str, how: str, make_step: MakeStep, make_trl: MakeTrl
) -> None:
    """TRL takes the weights as an input: they are made here, by its definition."""
    trainer = make_trl(loss_type="dapo", beta=0.1)
    trainer.use_vllm = True
    step = make_step(recomputed=True)
    difference = padded(step, step.known.old - step.known.sampling)
    if level == "sequence":
        difference = difference.sum(dim=-1, keepdim=True)
    ratio = difference.exp()
    weights = ratio.clamp(max=1.3) if how == "truncate" else ratio.masked_fill((ratio < 0.7) | (ratio > 1.3), 0.0)
    found = step.evaluate(
        mismatch_correction=f"{level}_{how}",
        mismatch_low=0.7,
        mismatch_high=1.3,
        old_logprobs="recomputed",
        kl_coefficient=0.1,
    )

    assert_same(found, trl_loss(trainer, step, found.advantages, importance_sampling_ratio=weights))


@pytest.mark.parametrize(("ours", "theirs"), [("group_std", "group"), ("batch_std", "batch"), ("mean_only", "none")])
def test_advantages_are_those_of_trl(ours: Any, theirs: str, make_trl: MakeTrl) -> None:
    """Through TRL's own generation, whose rewards are given."""
    from grpo_core.training.advantages import group_advantages
    from grpo_core.types import Group, Trajectory

    rewards = [0.3, 1.0, -2.0, 0.0, 5.0, 5.0, 1.0, 1.5]
    trainer = make_trl(scale_rewards=theirs, max_completion_length=4)
    trainer._calculate_rewards = lambda *args: torch.tensor(rewards)[:, None]
    found = trainer._generate_and_score_completions([{"prompt": f"{index // 2} + 1 = "} for index in range(8)])
    groups = [
        Group(str(index), tuple(Trajectory(str(index), "solver", (), value) for value in rewards[index : index + 2]))
        for index in range(0, 8, 2)
    ]

    expected = found["advantages"].numpy()
    if ours == "batch_std":  # TRL's is of the rewards, this one of the centred rewards: one factor for the whole batch
        centred = np.array(rewards).reshape(4, 2) - np.array(rewards).reshape(4, 2).mean(axis=1, keepdims=True)
        expected = expected * (np.std(rewards, ddof=1) + 1e-4) / (centred.std() + 1e-4)
    assert np.abs(expected - np.concatenate(group_advantages(groups, ours))).max() < TOLERANCE
