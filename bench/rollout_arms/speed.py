"""Part one: tokens per second of all arms, and their ratios."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np

from bench.reporting.figures import Figure, Report, figure_table, row, table_head
from bench.rollout_arms.adapter import AdapterPublisher
from bench.rollout_arms.arm import Arm, Setup
from bench.rollout_arms.figures import speed_figures
from bench.rollout_arms.rounds import ARMS_WITH_PROCESSES, RolloutShape, Timed, run_rounds, select, warm_up
from bench.rollout_arms.torch_arm import TorchArm
from bench.rollout_arms.workloads import OrderWorkloads
from grpo_core.errors import MissingPackageError
from grpo_core.model.tokenizer import Tokenizer, load_tokenizer

MAX_FOREIGN_SHARE = 0.02


def measure_speed(
    setup: Setup, versions: AdapterPublisher, shape: RolloutShape, arm_names: Sequence[str], num_rounds: int, seed: int
) -> Report:
    """Run the arms in turn for ``num_rounds``, with progress on stderr."""
    rng = np.random.default_rng(seed)
    orders, notes = _order_workloads(load_tokenizer(setup.model.name), rng)
    samples: list[Timed] = []
    with ExitStack() as stack:
        lora = versions.publish(1)
        arms = {name: stack.enter_context(closing(_build(name, setup, versions, lora))) for name in arm_names}
        warm_up(arms, shape, rng)
        for one in run_rounds(arms, shape, num_rounds, rng, orders):
            samples.append(one)
            print(_progress(one, num_rounds), file=sys.stderr, flush=True)
    figures = speed_figures(samples, shape.num_prompt_tokens)
    lines = [*_speed_table(samples, arm_names), "", *figure_table(figures), "", _foreign_note(samples), *notes]
    return Report(tuple(lines), figures)


def _order_workloads(tokenizer: Tokenizer, rng: np.random.Generator) -> tuple[OrderWorkloads | None, list[str]]:
    """The Diplomacy workloads, or a note why they are left out."""
    try:
        return OrderWorkloads(tokenizer, rng), []
    except MissingPackageError as error:
        return None, [f"Orders left out: {error}"]


def _build(name: str, setup: Setup, versions: AdapterPublisher, lora: Path) -> Arm:
    if name == "trl":
        from bench.rollout_arms.trl_arm import TrlArm

        return TrlArm(setup, lora)
    if name in {"vllm", "vllm_lora"}:
        from bench.rollout_arms.vllm_arm import VllmArm

        return VllmArm(setup, lora if name == "vllm_lora" else None)
    return TorchArm(setup, versions, jump_forward=name != "no_jump_forward")


def _progress(one: Timed, num_rounds: int) -> str:
    return (
        f"round {one.number + 1}/{num_rounds}: {one.num_sequences} sequences, {one.kind}, {one.arm}: "
        f"{one.sample.num_tokens} tokens in {one.sample.seconds:.2f} s"
    )


def _speed_table(samples: Sequence[Timed], arms: Sequence[str]) -> Iterator[str]:
    yield from table_head("sequences", "completions", "arm", "tokens/s", "tokens", "seconds")
    for size in sorted({one.num_sequences for one in samples}):
        for kind in sorted({one.kind for one in samples}):
            for arm in arms:
                taken = [one.sample for one in select(samples, kind, arm, size).values()]
                if taken:
                    speed = Figure.of([sample.tokens_per_second for sample in taken], "tokens/s")
                    tokens = Figure.of([sample.num_tokens for sample in taken], "tokens")
                    seconds = Figure.of([sample.seconds for sample in taken], "s")
                    yield row(size, kind, f"`{arm}`", speed, f"{tokens.median:.0f}", f"{seconds.median:.3g}")


def _foreign_note(samples: Sequence[Timed]) -> str:
    alone = [one for one in samples if one.arm not in ARMS_WITH_PROCESSES]
    share = sum(one.foreign_s for one in alone) / sum(one.sample.seconds for one in alone)
    judged = "too much: the others are slower than they should be" if share > MAX_FOREIGN_SHARE else "idle"
    return f"The processes of vLLM used {100 * share:.1f} % of a core while other arms ran ({judged})."
