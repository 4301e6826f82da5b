"""Part one: tokens per second of all arms, and their ratios."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np

from bench.reporting.figures import Figure, Report, figure_table, row, table_head
from bench.rollout_arms.adapter import AdapterPublisher
from bench.rollout_arms.agreement import FLOAT16, FLOAT32, LLAMA_CPP, Rival, check_agreement
from bench.rollout_arms.arm import Arm, Setup
from bench.rollout_arms.figures import limit_figures, neighbour_figures, speed_figures
from bench.rollout_arms.limits import Limits
from bench.rollout_arms.rounds import (
    ARMS_WITH_PROCESSES,
    FREE,
    ORDERS,
    RolloutShape,
    Timed,
    run_rounds,
    select,
    warm_up,
)
from bench.rollout_arms.torch_arm import TorchArm
from bench.rollout_arms.workloads import OrderWorkloads
from grpo_core.errors import MissingPackageError
from grpo_core.model.tokenizer import Tokenizer, load_tokenizer

MAX_FOREIGN_SHARE = 0.02
HALF_ARMS = ("llama_cpp_f16",)
TOLERANCES = {"llama_cpp": LLAMA_CPP, "llama_cpp_f16": FLOAT16}
"""Of the arms that are less exact than float32."""


def measure_speed(
    setup: Setup,
    versions: AdapterPublisher,
    shape: RolloutShape,
    arm_names: Sequence[str],
    num_rounds: int,
    seed: int,
    neighbours: Sequence[int] = (),
) -> Report:
    """Run the arms in turn for ``num_rounds``, with progress on stderr.

    Raises:
        ArithmeticError: an arm does not compute what this engine does.
    """
    rng = np.random.default_rng(seed)
    orders, notes = _order_workloads(load_tokenizer(setup.model.name), rng)
    samples: list[Timed] = []
    with ExitStack() as stack:
        lora = versions.publish(1)
        arms: dict[str, Arm] = {}
        for name in arm_names:
            arms[name] = stack.enter_context(closing(_build(name, setup, versions, lora, shape)))
        ours = arms["torch"]
        assert isinstance(ours, TorchArm)
        notes += agreement_notes(arms, ours, shape.vocab_size)
        warm_up(arms, shape, rng)
        limits = Limits.of(ours, shape, setup.num_threads) if shape.num_tokens > 1 else None
        for one in run_rounds(arms, shape, num_rounds, rng, orders, neighbours):
            samples.append(one)
            print(_progress(one, num_rounds), file=sys.stderr, flush=True)
    figures = speed_figures(samples, shape.num_prompt_tokens) | neighbour_figures(samples, neighbours)
    figures |= limit_figures(samples, limits) if limits is not None else {}
    lines = [*_speed_table(samples, arm_names), "", *figure_table(figures), "", _foreign_note(samples), *notes]
    return Report(tuple(lines), figures)


def agreement_notes(arms: Mapping[str, Arm], ours: TorchArm, vocab_size: int) -> list[str]:
    """What was found of each arm that says what it computes.

    Raises:
        ArithmeticError: it is not what this engine computes.
    """
    rivals: list[tuple[str, Rival]] = [(name, arm) for name, arm in arms.items() if isinstance(arm, Rival)]
    return [
        str(check_agreement(name, rival, ours, vocab_size, TOLERANCES.get(name, FLOAT32))) for name, rival in rivals
    ]


def _order_workloads(tokenizer: Tokenizer, rng: np.random.Generator) -> tuple[OrderWorkloads | None, list[str]]:
    """The Diplomacy workloads, or a note why they are left out."""
    try:
        return OrderWorkloads(tokenizer, rng), []
    except MissingPackageError as error:
        return None, [f"Orders left out: {error}"]


def _build(name: str, setup: Setup, versions: AdapterPublisher, lora: Path, shape: RolloutShape) -> Arm:
    if name == "trl":
        from bench.rollout_arms.trl_arm import TrlArm

        return TrlArm(setup, lora)
    if name in {"vllm", "vllm_lora"}:
        from bench.rollout_arms.vllm_arm import VllmArm

        return VllmArm(setup, lora if name == "vllm_lora" else None)
    if name == "openvino":
        from bench.rollout_arms.openvino_arm import OpenVinoArm

        return OpenVinoArm(setup, lora)
    if name in {"llama_cpp", "llama_cpp_f16"}:
        from bench.rollout_arms.llama_cpp_arm import LlamaCppArm

        return LlamaCppArm(setup, lora, half=name in HALF_ARMS, num_tokens=shape.num_tokens)
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
    alone = [one for one in samples if one.arm not in ARMS_WITH_PROCESSES and one.kind in {FREE, ORDERS}]
    share = sum(one.foreign_s for one in alone) / sum(one.sample.seconds for one in alone)
    judged = "too much: the others are slower than they should be" if share > MAX_FOREIGN_SHARE else "idle"
    return f"The processes of vLLM used {100 * share:.1f} % of a core while other arms ran ({judged})."
