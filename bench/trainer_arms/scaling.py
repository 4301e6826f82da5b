"""``--growth``: how the time of a step scales with the group size, for one prompt and G from 2 to 32.

The tokens of a step, P + G R, and its FLOPs are linear in G. Each predicts a slope: that of the line through the origin
that fits the measured times best. Legend: G completions, P prompt tokens, R completion tokens.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from bench.model_shapes import SHAPES
from bench.reporting.drawing import Panel, Point, picture
from bench.reporting.figures import Figure, Report, row, table_head
from bench.trainer_arms.arms import TrainerArm
from bench.trainer_arms.batches import BatchShape, random_batch
from bench.trainer_arms.flops import step_flops
from grpo_core.home import write_atomic

GROUP_SIZES = (2, 4, 8, 16, 32)
NUM_ROUNDS = 5
WITHIN = (0.85, 1.15)


def measure_scaling(preset: str, arm: TrainerArm, shape: BatchShape, file: Path) -> Report:
    """Time steps of each group size in turn, and draw them to ``file``."""
    rng = np.random.default_rng(0)
    taken: dict[int, list[float]] = {size: [] for size in GROUP_SIZES}
    for number in range(NUM_ROUNDS + 1):
        for place in rng.permutation(len(GROUP_SIZES)):
            own = replace(shape, num_groups=1, group_size=GROUP_SIZES[place])
            seconds = arm.run(random_batch(rng, own, SHAPES[preset].vocab_size)).loss_seconds
            if number > 0:  # the first round warms up
                taken[own.group_size].append(seconds)
    times = {size: statistics.median(values) for size, values in taken.items()}
    predictors = scaling_predictors(preset, shape)
    figures = {
        f"growth_slope_vs_{name}_{preset}": _figure(slope_ratio(times, predict)) for name, predict in predictors.items()
    }
    write_atomic(file, _draw(preset, shape, times, taken).encode())
    return Report(tuple(_lines(preset, shape, times)), figures)


def scaling_predictors(preset: str, shape: BatchShape) -> dict[str, Callable[[int], float]]:
    def tokens(size: int) -> float:
        return shape.num_prompt_tokens + size * shape.num_tokens

    def flops(size: int) -> float:
        return step_flops(preset, replace(shape, num_groups=1, group_size=size)).total

    return {"tokens": tokens, "flops": flops}


def slope_ratio(times: Mapping[int, float], predict: Callable[[int], float]) -> float:
    """The least-squares slope of the times over the predicted slope."""
    sizes = np.array(list(times))
    seconds = np.array(list(times.values()))
    amounts = np.array([predict(int(size)) for size in sizes])
    scale = float(seconds @ amounts / (amounts @ amounts))
    return float(np.polyfit(sizes, seconds, 1)[0] / np.polyfit(sizes, amounts * scale, 1)[0])


def _figure(ratio: float) -> Figure:
    return Figure(ratio, ratio, ratio, len(GROUP_SIZES), "ratio", at_least=WITHIN[0], at_most=WITHIN[1])


def _lines(preset: str, shape: BatchShape, times: Mapping[int, float]) -> Iterator[str]:
    yield from table_head("preset", "G", "P + G R", "GFLOP", "forward and backward, ms")
    predictors = scaling_predictors(preset, shape)
    for size, seconds in times.items():
        flops = predictors["flops"](size) / 1e9
        yield row(preset, size, f"{predictors['tokens'](size):.0f}", f"{flops:.1f}", f"{seconds * 1e3:.0f}")


def _draw(preset: str, shape: BatchShape, times: Mapping[int, float], taken: Mapping[int, list[float]]) -> str:
    tokens = scaling_predictors(preset, shape)["tokens"]
    scale = sum(times[size] * tokens(size) for size in times) / sum(tokens(size) ** 2 for size in times)
    points = [
        Point(size, value * 1e3, "measured", f"G = {size}: {value * 1e3:.0f} ms")
        for size, values in taken.items()
        for value in values
    ]
    predicted = [Point(size, scale * tokens(size) * 1e3, "P + G R", f"G = {size}", is_hollow=True) for size in times]
    title = f"Forward and backward of one group, ms ({preset}, P = {shape.num_prompt_tokens}, R = {shape.num_tokens})"
    return picture(title, [Panel("G, completions of the prompt", [*points, *predicted])])
