"""The objective as a whole, in float64: hand-computed steps, and identities that hold for every choice."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor

if TYPE_CHECKING:
    from tests.grpo_core.training.objective.conftest import Evaluated, MakeStep, Step

RECOMPUTED: dict[str, Any] = {"old_logprobs": "recomputed"}
CHOICES: dict[str, dict[str, Any]] = {
    "grpo": {"loss": "grpo"},
    "dr_grpo": {"loss": "dr_grpo", "loss_length_tokens": 8},
    "dapo": {"loss": "dapo"},
    "bnpo": {"loss": "bnpo"},
    "gspo": {"loss": "gspo"},
    "cispo": {"loss": "cispo"},
    "sapo": {"loss": "sapo"},
    "asymmetric and dual": {"clip_low": 0.1, "clip_high": 0.3, "clip_dual": 1.5},
    **{f"{kl} in the {place}": {"kl_coefficient": 0.2, "kl_estimator": kl, "kl_in": place}
       for kl in ("k1", "k2", "k3") for place in ("loss", "reward")},
    **{f"corrected {kl} of {loss}": {"kl_coefficient": 0.2, "kl_estimator": kl, "kl_bias_correction": True,
                                     "loss": loss} for kl, loss in (("k1", "dapo"), ("k3", "grpo"), ("k3", "gspo"))},
    **{advantages: {"advantages": advantages} for advantages in ("batch_std", "mean_only", "leave_one_out")},
    **{f"{level}_{how}": {"mismatch_correction": f"{level}_{how}", "mismatch_low": 0.8, "mismatch_high": 1.2,
                            **RECOMPUTED}
       for level in ("token", "sequence") for how in ("truncate", "mask")},
    "masked without recomputing": {"mismatch_correction": "token_mask", "mismatch_low": 0.8, "mismatch_high": 1.2},
    "overlong": {"mask_overlong": True},
    "overlong in grpo": {"loss": "grpo", "mask_overlong": True},
    "entropy bonus": {"entropy_coefficient": 0.1},
    "entropy mask": {"top_entropy_share": 0.3, "entropy_coefficient": 0.1, **RECOMPUTED},
    "everything": {
        "loss": "gspo", "kl_coefficient": 0.2, "mismatch_correction": "sequence_mask", "mask_overlong": True,
        "entropy_coefficient": 0.1, "top_entropy_share": 0.5, "clip_dual": 3.0, **RECOMPUTED,
    },
}  # fmt: skip


def step_of(make_step: MakeStep, choice: dict[str, Any], **options: Any) -> Step:
    """A step with two overlong trajectories."""
    return make_step(recomputed="old_logprobs" in choice, overlong=(1, 6), **options)


def chosen(evaluated: Evaluated, name: str) -> Tensor:
    """A measurement [C] of all micro-batches, one after the other."""
    return torch.cat([getattr(item, name) for item in evaluated.terms])


@pytest.mark.parametrize("name", CHOICES)
def test_the_gradient_does_not_depend_on_the_split(name: str, make_step: MakeStep) -> None:
    choice = CHOICES[name]
    for seed in range(4):
        step = step_of(make_step, choice, seed=seed, num_turns=1 + seed % 2)
        size = len(step.lengths)
        order = np.random.default_rng(seed).permutation(size).tolist()
        whole = step.evaluate(**choice)
        for splits in ([[index] for index in range(size)], [order[:3], order[3:4], order[4:]]):
            split = step.evaluate(splits, **choice)
            assert abs(split.loss - whole.loss) < 1e-12
            assert float((split.gradient - whole.gradient).abs().max()) < 1e-12
            assert float((split.entropy_gradient - whole.entropy_gradient).abs().max()) < 1e-12
        assert float(whole.gradient.abs().max()) > 1e-4


@pytest.mark.parametrize("name", [name for name in CHOICES if name not in ("cispo", "masked without recomputing")])
def test_the_gradient_is_that_of_finite_differences(name: str, make_step: MakeStep) -> None:
    """Of all but CISPO and the mask of a ratio that is not recomputed: their weights have no gradient by definition."""
    choice = CHOICES[name]
    step = step_of(make_step, choice)
    gradient = step.evaluate(**choice).gradient
    for index in range(0, len(step.logprobs), 3):
        losses = []
        for change in (1e-6, -1e-6):
            moved = step.logprobs.copy()
            moved[index] += change
            losses.append(replace(step, logprobs=moved).evaluate(**choice).loss)
        assert (losses[0] - losses[1]) / 2e-6 == pytest.approx(gradient[index].item(), abs=1e-7)


@pytest.mark.parametrize("name", CHOICES)
def test_on_policy_every_ratio_is_1_and_every_loss_has_the_plain_gradient(name: str, make_step: MakeStep) -> None:
    """-w A per token, w being the normalisation: nothing is clipped, corrected or faded."""
    choice = CHOICES[name]
    plain = not {"kl_coefficient", "entropy_coefficient", "top_entropy_share", "mask_overlong"} & set(choice)
    step = step_of(make_step, choice, off_policy=0.0)
    found = step.evaluate(**choice)

    assert chosen(found, "ratio").tolist() == [1.0] * len(step.logprobs)
    assert chosen(found, "mismatch").tolist() == [0.0] * len(step.logprobs)
    assert not (chosen(found, "is_clipped_low") | chosen(found, "is_clipped_high")).any()
    if plain:
        lengths = np.array(step.lengths)
        match choice.get("loss", "dapo"):
            case "grpo" | "gspo" | "sapo":
                weights = 1 / (len(lengths) * np.repeat(lengths, lengths))
            case "dr_grpo":
                weights = np.full(lengths.sum(), 1 / (len(lengths) * 8))
            case _:
                weights = np.full(lengths.sum(), 1 / lengths.sum())
        expected = -weights * np.repeat(found.advantages, lengths)
        assert np.abs(found.gradient.numpy() - expected).max() < 1e-12


def by_hand(make_step: MakeStep) -> Step:
    """One group, rewards 1 and -1, with completions of one and two chosen tokens, and mean-only advantages of 1, -1."""
    from grpo_core.training.objective.token_table import TokenLogprobs
    from grpo_core.types import Group, Trajectory

    step = make_step(rewards=((1.0, -1.0),))
    turns = [
        replace(
            step.part.completions[0],
            completion_ids=np.arange(1, num + 1, dtype=np.int32),
            completion_mask=np.ones(num, dtype=np.bool_),
            sampling_logprobs=np.zeros(num, dtype=np.float32),
        )
        for num in (1, 2)
    ]
    trajectories = tuple(Trajectory("0", "solver", (turn,), r) for turn, r in zip(turns, (1.0, -1.0), strict=True))
    known = TokenLogprobs(np.log([0.5, 0.25, 0.5]), np.log([0.5, 0.25, 0.5]), np.log([0.5, 0.25, 0.25]))
    return replace(
        step,
        part=replace(step.part, groups=(Group("0", trajectories),)),
        known=known,
        logprobs=np.log([0.75, 0.125, 0.5]),  # ratios 1.5, 0.5 and 1
        entropy=np.array([1.0, 2.0, 6.0]),
    )


HALF = 2**-0.5  # the ratio of the second sequence, sqrt(0.5 * 1)


@pytest.mark.parametrize(
    ("choice", "loss", "gradient"),
    [
        # Terms -1.2, 0.8, 1: the first two are clipped.
        ({"loss": "grpo"}, (-1.2 + (0.8 + 1) / 2) / 2, [0, 0, 1 / 4]),
        ({"loss": "dr_grpo", "loss_length_tokens": 5}, (-1.2 + 0.8 + 1) / 10, [0, 0, 1 / 10]),
        ({"loss": "dapo"}, (-1.2 + 0.8 + 1) / 3, [0, 0, 1 / 3]),
        ({"loss": "bnpo"}, (-1.2 + 0.8 + 1) / 3, [0, 0, 1 / 3]),
        ({"loss": "gspo", "clip_high": 0.6, "clip_low": 0.5}, (-1.5 + HALF) / 2, [-0.75, HALF / 4, HALF / 4]),
        ({"loss": "gspo"}, (-1.2 + 0.8) / 2, [0, 0, 0]),
        (
            {"loss": "cispo"},
            (-1.2 * np.log(0.75) + 0.5 * np.log(0.125) + np.log(0.5)) / 3,
            [-1.2 / 3, 0.5 / 3, 1 / 3],
        ),
        (
            {"loss": "sapo", "sapo_temperature_negative": 1.0},
            (-4 / (1 + np.exp(-0.5)) + (4 / (1 + np.exp(0.5)) + 2) / 2) / 2,
            [
                -1.5 * 4 * np.exp(-0.5) / (1 + np.exp(-0.5)) ** 2 / 2,
                0.5 * 4 * np.exp(0.5) / (1 + np.exp(0.5)) ** 2 / 4,
                1 / 4,
            ],
        ),
        # k1 is ln 1.5, -ln 2, ln 2; each adds 0.3 / 3 of its gradient, 1.
        (
            {"kl_coefficient": 0.3, "kl_estimator": "k1"},
            (0.6 + 0.3 * np.log(1.5)) / 3,
            [0.1, 0.1, 1 / 3 + 0.1],
        ),
        # Weighed by the ratios 1.5, 0.5, 1: r k1 with the gradient r (k1 + 1).
        (
            {"kl_coefficient": 0.3, "kl_estimator": "k1", "kl_bias_correction": True},
            (0.6 + 0.3 * (1.5 * np.log(1.5) - 0.5 * np.log(2) + np.log(2))) / 3,
            [0.15 * (np.log(1.5) + 1), 0.05 * (1 - np.log(2)), 1 / 3 + 0.1 * (np.log(2) + 1)],
        ),
        # The same in gspo, whose policy term has a ratio of the sequence: the KL term keeps the token's own.
        (
            {"loss": "gspo", "kl_coefficient": 0.4, "kl_estimator": "k1", "kl_bias_correction": True},
            -0.2 + 0.4 * (1.5 * np.log(1.5) / 2 + (np.log(2) - 0.5 * np.log(2)) / 4),
            [0.3 * (np.log(1.5) + 1), 0.05 * (1 - np.log(2)), 0.1 * (np.log(2) + 1)],
        ),
        ({"entropy_coefficient": 0.5}, 0.2 - 0.5 * 3, [0, 0, 1 / 3]),
        # Only the first ratio is outside, so its token is left out, and still one of the three.
        ({"mismatch_correction": "token_mask", "mismatch_low": 0.4, "mismatch_high": 1.4}, 1.8 / 3, [0, 0, 1 / 3]),
        # Ratios of the sequences: 1.5 and 0.5.
        ({"mismatch_correction": "sequence_mask", "mismatch_low": 0.6}, -1.2 / 3, [0, 0, 0]),
    ],
)
def test_by_hand(choice: dict[str, Any], loss: float, gradient: list[float], make_step: MakeStep) -> None:
    found = by_hand(make_step).evaluate(advantages="mean_only", **choice)

    assert found.loss == pytest.approx(loss)
    assert found.gradient.tolist() == pytest.approx(gradient)


def test_corrections_by_hand(make_step: MakeStep) -> None:
    """With recomputed log-probabilities the ratio of the loss is 1 and the correction carries the mismatch."""
    step = by_hand(make_step)
    known = replace(step.known, old=step.logprobs, entropy=step.entropy)  # 1.5, 0.5, 1 to the sampler's
    step = replace(step, known=known)
    weights = {
        "token_truncate": [1.4, 0.5, 1.0],
        "token_mask": [0.0, 0.5, 1.0],
        "sequence_truncate": [1.4, 0.5, 0.5],
        "sequence_mask": [0.0, 0.5, 0.5],
    }
    for correction, expected in weights.items():
        choice: dict[str, Any] = {
            "mismatch_correction": correction,
            "mismatch_low": 0.4,
            "mismatch_high": 1.4,
            **RECOMPUTED,
        }
        found = step.evaluate(advantages="mean_only", **choice)
        assert found.gradient.tolist() == pytest.approx([-expected[0] / 3, expected[1] / 3, expected[2] / 3])
        assert chosen(found, "is_effective").tolist() == [weight > 0 for weight in expected]


def test_a_penalty_in_the_reward_by_hand(make_step: MakeStep) -> None:
    """k1 of the old policy to the reference: 0, then 0 + ln 2. The rewards are 1 and -1 - ln 2 / 2."""
    found = by_hand(make_step).evaluate(advantages="mean_only", kl_coefficient=0.5, kl_estimator="k1", kl_in="reward")

    difference = 2 + np.log(2) / 2
    assert found.advantages.tolist() == pytest.approx([difference / 2, -difference / 2])
    assert float(found.terms[0].kl.sum()) > 0  # measured all the same


def test_an_overlong_penalty_by_hand(make_step: MakeStep) -> None:
    """The rewards are 1 and -1 - 0.5, with k1 in the reward -1 - 0.5 - ln 2 / 2."""
    step = by_hand(make_step)
    first, second = step.part.trajectories
    group = replace(step.part.groups[0], trajectories=(first, replace(second, overlong_penalty=-0.5)))
    step = replace(step, part=replace(step.part, groups=(group,)))

    found = step.evaluate(advantages="mean_only").advantages
    assert found.tolist() == pytest.approx([2.5 / 2, -2.5 / 2])
    both = step.evaluate(advantages="mean_only", kl_coefficient=0.5, kl_estimator="k1", kl_in="reward").advantages
    difference = 2.5 + np.log(2) / 2
    assert both.tolist() == pytest.approx([difference / 2, -difference / 2])


def test_masks_leave_measurements_alone(make_step: MakeStep) -> None:
    """What is logged is of all tokens that went through the model: a mask may hide nothing."""
    step = make_step(recomputed=True, overlong=(0, 3))
    plain = step.evaluate(kl_coefficient=0.1, **RECOMPUTED)
    masked = step.evaluate(
        kl_coefficient=0.1,
        mask_overlong=True,
        mismatch_correction="token_mask",
        mismatch_low=0.9,
        mismatch_high=1.1,
        top_entropy_share=0.5,
        **RECOMPUTED,
    )

    for name in ("logprobs", "entropy", "ratio", "mismatch", "kl", "is_clipped_low", "is_clipped_high"):
        assert torch.equal(chosen(plain, name), chosen(masked, name))
    assert bool(chosen(plain, "is_effective").all())
    assert 0 < int(chosen(masked, "is_effective").sum()) < len(step.logprobs)


def test_an_overlong_trajectory_has_no_gradient_and_its_reward_still_counts(make_step: MakeStep) -> None:
    step = make_step(overlong=(1,))
    found = step.evaluate(mask_overlong=True, loss="grpo", kl_coefficient=0.1, entropy_coefficient=0.1)
    start, end = np.cumsum([0, *step.lengths])[1:3]

    for gradient in (found.gradient, found.entropy_gradient):
        assert not gradient[start:end].any()
        assert bool((gradient[:start] != 0).any())
    assert found.advantages.tolist() == step.evaluate().advantages.tolist()
    others = [length for index, length in enumerate(step.lengths) if index != 1]
    assert -found.entropy_gradient.sum().item() == pytest.approx(0.1)
    assert -found.entropy_gradient[0].item() == pytest.approx(0.1 / sum(others))


@pytest.mark.parametrize("advantages", ["group_std", "batch_std", "mean_only", "leave_one_out"])
@pytest.mark.parametrize("kl_in", ["loss", "reward"])
def test_advantages_of_a_group_sum_to_0(advantages: str, kl_in: str, make_step: MakeStep) -> None:
    step = make_step(num_turns=2)
    found = step.evaluate(None, advantages=advantages, kl_coefficient=0.3, kl_in=kl_in).advantages[::2]

    for group in np.split(found, np.cumsum([3, 2])):
        assert abs(group.sum()) < 1e-6
        assert np.abs(group).max() > 0.1
