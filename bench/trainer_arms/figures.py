"""The published ratios of the trainer benchmark, taken round by round, and the agreement of the arms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bench.reporting.figures import Figure
from bench.trainer_arms.arms import PADDED, SHARED, TRL, Taken

MIN_VS_TRL, MIN_VS_PADDED, MAX_MEMORY_RATIO = 12.0, 5.0, 1 / 3
MIN_FORWARD_OVER_BACKWARD, MAX_FORWARD_OVER_BACKWARD = 0.67, 1.5
LARGEST_LOGPROB_DIFFERENCE, LARGEST_NORM_DIFFERENCE = 1e-3, 1e-3

Rounds = Sequence[Mapping[str, Taken]]
"""Steps of all arms on the same batch, by arm, round after round."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """The largest differences between an arm and this trainer over all rounds."""

    logprobs: float  # nats
    grad_norm: float  # relative

    @property
    def is_close(self) -> bool:
        return self.logprobs <= LARGEST_LOGPROB_DIFFERENCE and self.grad_norm <= LARGEST_NORM_DIFFERENCE


def agreement(rounds: Rounds, other: str) -> Agreement:
    logprobs = [
        float(np.abs(mine - its).max())
        for taken in rounds
        for mine, its in zip(taken[SHARED].step.logprobs, taken[other].step.logprobs, strict=True)
    ]
    norms = [abs(taken[other].step.grad_norm / taken[SHARED].step.grad_norm - 1) for taken in rounds]
    return Agreement(max(logprobs), max(norms))


def preset_figures(rounds: Rounds) -> dict[str, Figure]:
    """The figures of one preset, for the arms that ran."""
    arms = rounds[0].keys()
    figures: dict[str, Figure] = {}
    if TRL in arms:
        ratios = [taken[TRL].loss_seconds / taken[SHARED].loss_seconds for taken in rounds]
        figures["step_vs_trl"] = Figure.of(ratios, "ratio", at_least=MIN_VS_TRL)
        whole = [taken[TRL].whole_seconds / taken[SHARED].whole_seconds for taken in rounds]
        figures["whole_step_vs_trl"] = Figure.of(whole, "ratio")
    if PADDED in arms:
        ratios = [taken[PADDED].loss_seconds / taken[SHARED].loss_seconds for taken in rounds]
        figures["step_vs_padded"] = Figure.of(ratios, "ratio", at_least=MIN_VS_PADDED)
    figures["forward_over_backward"] = Figure.of(
        [taken[SHARED].forward_over_backward for taken in rounds],
        "ratio",
        at_least=MIN_FORWARD_OVER_BACKWARD,
        at_most=MAX_FORWARD_OVER_BACKWARD,
    )
    return figures


def rate_figure(rounds: Rounds, num_flops: float, rate: float) -> dict[str, Figure]:
    """The operations of a step that are needed, over those of a large product of matrices in the same time."""
    shares = [num_flops / taken[SHARED].loss_seconds / rate for taken in rounds]
    return {"step_share_of_matrix_rate": Figure.of(shares, "share")}


def all_figures(by_preset: Mapping[str, Mapping[str, Figure]]) -> dict[str, Figure]:
    """``<key>_<preset>`` for each preset, and under the plain key the worst of them."""
    keys = list(dict.fromkeys(key for figures in by_preset.values() for key in figures))
    result: dict[str, Figure] = {}
    for key in keys:
        found = {preset: figures[key] for preset, figures in by_preset.items() if key in figures}
        result[key] = max(found.values(), key=badness)
        result |= {f"{key}_{preset}": figure for preset, figure in found.items()}
    return result


def badness(figure: Figure) -> float:
    """A sort key: larger is worse. For a range, the factor away from 1 in either direction."""
    if figure.at_least is not None and figure.at_most is not None:
        return max(figure.median, 1 / figure.median)
    return figure.median if figure.at_most is not None else -figure.median
