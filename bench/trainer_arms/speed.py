"""Steps of all arms in turn on the same batches: time, FLOPs and memory."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from bench.model_shapes import SHAPES, built_model
from bench.reporting.figures import Figure, Report, figure_table, row, table_head
from bench.rollout_arms.arm import Setup
from bench.rollout_arms.workloads import free_workload
from bench.trainer_arms.arms import PADDED, SHARED, Taken, TrainerArm, build_arms, model_config
from bench.trainer_arms.batches import BatchShape, on_policy, random_batch
from bench.trainer_arms.figures import MAX_MEMORY_RATIO, Rounds, agreement, all_figures, preset_figures, rate_figure
from bench.trainer_arms.flops import matrix_rate, step_flops
from bench.trainer_arms.memory import measure_step_bytes, memory_figure

MIB = 2**20


def measure_speed(
    setup: Setup, presets: Sequence[str], shape: BatchShape, arm_names: list[str], num_rounds: int, seed: int
) -> Report:
    """Raises ArithmeticError when the arms disagree."""
    rate = matrix_rate(setup.num_threads)
    by_preset: dict[str, dict[str, Figure]] = {}
    lines: list[str] = []
    for preset in presets:
        folder = setup.folder / preset
        own = replace(setup, model=model_config(built_model(preset, folder)), folder=folder)
        arms = build_arms(arm_names, own, with_rollouts=True)
        rounds = list(run_rounds(arms, preset, shape, num_rounds, np.random.default_rng(seed)))
        by_preset[preset] = preset_figures(rounds) | rate_figure(rounds, step_flops(preset, shape).total, rate)
        lines += [*_step_table(preset, rounds), "", _flops_line(preset, shape, rounds, rate)]
        lines += [*_agreement_lines(preset, rounds)]
        del arms
        if PADDED in arm_names:
            used = {name: measure_step_bytes(name, preset, shape, own.folder, setup.num_threads) for name in arm_names}
            by_preset[preset]["peak_memory_vs_padded"] = memory_figure(used[SHARED], used[PADDED], MAX_MEMORY_RATIO)
            told = ", ".join(f"{name} {value / MIB:.0f} MiB" for name, value in used.items())
            lines += [f"Peak memory of a step of `{preset}`: {told}.", ""]
    figures = all_figures(by_preset)
    figures["matrix_rate"] = Figure(rate / 1e9, rate / 1e9, rate / 1e9, 1, "GFLOP/s")
    return Report((*figure_table(figures), "", *lines), figures)


def run_rounds(
    arms: Mapping[str, TrainerArm], preset: str, shape: BatchShape, num_rounds: int, rng: np.random.Generator
) -> Iterator[Mapping[str, Taken]]:
    """Each round has a new on-policy batch and a random order of arms.

    A warm-up round comes first. An arm with a sampler samples as many tokens before its step.
    """
    vocab_size = SHAPES[preset].vocab_size
    names = list(arms)
    sizes = (shape.num_groups, shape.group_size, shape.num_prompt_tokens, shape.num_tokens)
    for number in range(num_rounds + 1):
        bare = random_batch(rng, shape, vocab_size)
        batch = on_policy(bare, arms[SHARED].run(bare).step.logprobs)
        workload = free_workload(rng, *sizes, vocab_size)
        taken = {names[place]: arms[names[place]].run(batch, workload) for place in rng.permutation(len(names))}
        if number == 0:
            continue
        told = ", ".join(f"{name} {one.loss_seconds:.2f} s" for name, one in taken.items())
        print(f"{preset}, round {number}/{num_rounds}: {told}", file=sys.stderr, flush=True)
        yield taken


def _step_table(preset: str, rounds: Rounds) -> Iterator[str]:
    names = ("preset", "arm", "forward, ms", "backward, ms", "whole step, ms", "rollout, ms")
    yield from table_head(*names)
    for name in rounds[0]:
        steps = [taken[name] for taken in rounds]
        forward = Figure.of([one.step.loss_forward_ms for one in steps], "ms")
        backward = Figure.of([one.step.backward_ms for one in steps], "ms")
        rollouts = [one.rollout_seconds * 1e3 for one in steps if one.rollout_seconds is not None]
        if not rollouts:
            yield row(preset, f"`{name}`", forward, backward, "", "")
            continue
        whole = Figure.of([one.whole_seconds * 1e3 for one in steps], "ms")
        yield row(preset, f"`{name}`", forward, backward, whole, Figure.of(rollouts, "ms"))


def _flops_line(preset: str, shape: BatchShape, rounds: Rounds, rate: float) -> str:
    needed = step_flops(preset, shape).total
    seconds = statistics.median(taken[SHARED].loss_seconds for taken in rounds)
    return (
        f"The mathematics of `{preset}` needs {needed / 1e9:.1f} GFLOP; done in {seconds * 1e3:.0f} ms that is "
        f"{100 * needed / seconds / rate:.0f} % of the {rate / 1e9:.0f} GFLOP/s of a large product."
    )


def _agreement_lines(preset: str, rounds: Rounds) -> Iterator[str]:
    for other in rounds[0]:
        if other == SHARED:
            continue
        found = agreement(rounds, other)
        if not found.is_close:
            raise ArithmeticError(f"{preset}: {other} and {SHARED} do not compute the same: {found}")
        yield (
            f"`{preset}`, `{other}` against `{SHARED}`: log-probabilities differ by at most {found.logprobs:.1g} nats, "
            f"gradient norms by {found.grad_norm:.1g} of their size."
        )
    yield ""
