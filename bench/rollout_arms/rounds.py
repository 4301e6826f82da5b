"""Rounds: each one gives all arms the same new workload, in random order, and again beside busy processes."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
import psutil

from bench.reporting.neighbours import busy_neighbours
from bench.rollout_arms.arm import Arms, RolloutSample, Workload
from bench.rollout_arms.workloads import OrderWorkloads, free_workload

FREE, ORDERS = "free", "orders"
CONSTRAINED_ARMS = ("torch", "no_jump_forward")
UNCONSTRAINED_ARM = "trl"
ARMS_WITH_PROCESSES = ("vllm_lora", "vllm")
WARM_UP_TOKENS = 2


def beside(count: int) -> str:
    """The kind of free completions beside ``count`` busy processes."""
    return f"{FREE} beside {count}"


@dataclass(frozen=True, slots=True)
class RolloutShape:
    """The size of the workloads: prompt and completion tokens, for several numbers of sequences."""

    num_sequences: tuple[int, ...]
    group_size: int
    num_prompt_tokens: int
    num_tokens: int
    vocab_size: int

    def free_workload(self, rng: np.random.Generator, num_sequences: int) -> Workload:
        num_groups = num_sequences // self.group_size
        return free_workload(rng, num_groups, self.group_size, self.num_prompt_tokens, self.num_tokens, self.vocab_size)


@dataclass(frozen=True, slots=True)
class Timed:
    """One sample with its arm, workload size and round."""

    kind: str
    arm: str
    num_groups: int
    num_sequences: int
    number: int  # of the round
    sample: RolloutSample
    foreign_s: float
    """CPU seconds that processes of other arms used meanwhile; above 0 they disturb the sample. Without neighbours."""


def warm_up(arms: Arms, shape: RolloutShape, rng: np.random.Generator) -> None:
    """Run every arm once with each number of sequences."""
    for num_sequences in shape.num_sequences:
        workload = replace(shape.free_workload(rng, num_sequences), num_tokens=WARM_UP_TOKENS)
        for arm in arms.values():
            arm.run(workload)


def run_rounds(
    arms: Arms,
    shape: RolloutShape,
    num_rounds: int,
    rng: np.random.Generator,
    orders: OrderWorkloads | None,
    neighbours: Sequence[int] = (),
) -> Iterator[Timed]:
    """Yields all samples as they are taken; without ``orders`` no constrained ones.

    Free ones are taken again beside so many ``neighbours``, with new prompts: an arm may know the old ones.
    """
    free_arms = [name for name in arms if name != "no_jump_forward"]
    for number in range(num_rounds):
        for num_sequences in shape.num_sequences:
            yield from _free_round(arms, FREE, free_arms, shape.free_workload(rng, num_sequences), number, rng)
            for count in neighbours:
                workload = shape.free_workload(rng, num_sequences)
                with busy_neighbours(count):
                    yield from _free_round(arms, beside(count), free_arms, workload, number, rng)
            if orders is not None:
                yield from _order_round(
                    arms, orders.next(num_sequences // shape.group_size, shape.group_size), number, rng
                )


def _free_round(
    arms: Arms, kind: str, names: Sequence[str], workload: Workload, number: int, rng: np.random.Generator
) -> Iterator[Timed]:
    for name in rng.permutation(names).tolist():
        yield _time(arms, kind, name, workload, number)


def _order_round(arms: Arms, workload: Workload, number: int, rng: np.random.Generator) -> Iterator[Timed]:
    """A round of constrained completions. The unconstrained arm samples as many tokens as the arm before it did."""
    order: list[str] = rng.permutation([name for name in CONSTRAINED_ARMS if name in arms]).tolist()
    if UNCONSTRAINED_ARM in arms:
        order.insert(int(rng.integers(1, len(order) + 1)), UNCONSTRAINED_ARM)
    free = workload
    for name in order:
        timed = _time(arms, ORDERS, name, free if name == UNCONSTRAINED_ARM else workload, number)
        if name != UNCONSTRAINED_ARM:
            free = replace(
                workload, orders=None, num_tokens=max(1, round(timed.sample.num_tokens / workload.num_sequences))
            )
        yield timed


def _time(arms: Arms, kind: str, name: str, workload: Workload, number: int) -> Timed:
    before = _children_cpu_s()
    # Garbage collection would scan the objects of all arms in the middle of a sample.
    gc.collect()
    gc.disable()
    try:
        sample = arms[name].run(workload)
    finally:
        gc.enable()
    is_alone = kind in {FREE, ORDERS} and name not in ARMS_WITH_PROCESSES
    foreign_s = 0.0 if not is_alone else _children_cpu_s() - before
    return Timed(kind, name, len(workload.prompts), workload.num_sequences, number, sample, foreign_s)


def _children_cpu_s() -> float:
    seconds = 0.0
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it has ended in the meantime
            seconds += sum(child.cpu_times()[:2])
    return seconds


def select(samples: Sequence[Timed], kind: str, arm: str, num_sequences: int) -> dict[int, Timed]:
    """By round."""
    wanted = (kind, arm, num_sequences)
    return {one.number: one for one in samples if (one.kind, one.arm, one.num_sequences) == wanted}
