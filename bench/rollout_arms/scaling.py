"""Part two, ``--growth``: how the time of a decode step scales with group size and prompt length.

Legend: N prompts, G sequences of each, P prompt tokens, R completion tokens, B = N * G.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from bench.reporting.drawing import Panel, Point, picture
from bench.reporting.figures import Figure, Report, row, table_head
from bench.rollout_arms.adapter import AdapterPublisher
from bench.rollout_arms.arm import Setup, Workload
from bench.rollout_arms.torch_arm import TorchArm, requests
from bench.rollout_arms.workloads import free_workload
from grpo_core.home import write_atomic
from grpo_core.rollout.protocol import EngineCounters
from pytest_grpo.measuring.sampling.clock import now

GROUPS = ((1, 2), (1, 8), (8, 1), (1, 16), (1, 32), (1, 64))
"""N and G. Eight sequences appear twice: for one prompt, and for eight."""
PROMPT_TOKENS = (236, 472, 944, 1888)
NEW_TOKENS = 32
NUM_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Cell:
    num_prompts: int
    group_size: int
    num_prompt_tokens: int

    @property
    def num_distinct(self) -> int:
        """Tokens with shared prompts, N * P + B * R."""
        return self.num_prompts * self.num_prompt_tokens + self.num_sequences * NEW_TOKENS

    @property
    def num_repeated(self) -> int:
        """Tokens with one copy of the prompt per sequence, B * (P + R)."""
        return self.num_sequences * (self.num_prompt_tokens + NEW_TOKENS)

    @property
    def num_sequences(self) -> int:
        return self.num_prompts * self.group_size


CELLS = tuple(Cell(*group, num_tokens) for group in GROUPS for num_tokens in PROMPT_TOKENS)


def measure_scaling(setup: Setup, versions: AdapterPublisher, file: Path, cells: tuple[Cell, ...] = CELLS) -> Report:
    """Time a decode step of each cell, and draw the times to ``file``."""
    torch.set_num_threads(setup.num_threads)
    arm = TorchArm(replace(setup, max_sequences=max(cell.num_sequences for cell in cells)), versions)
    rng = np.random.default_rng(0)
    taken: dict[Cell, list[float]] = {cell: [] for cell in cells}
    for number in range(NUM_ROUNDS + 1):
        for place in rng.permutation(len(cells)):
            cell = cells[place]
            workload = free_workload(
                rng, cell.num_prompts, cell.group_size, cell.num_prompt_tokens, NEW_TOKENS, versions.vocab_size
            )
            elapsed_ms = _step_ms(arm, workload)
            if number > 0:  # the first round warms up
                taken[cell].append(elapsed_ms)
    step_ms = {cell: statistics.median(values) for cell, values in taken.items()}
    token_mib = arm.kv_bytes_per_token / 2**20
    write_atomic(file, _draw(step_ms, token_mib).encode())
    return Report(tuple(_lines(step_ms, token_mib)), _figures(taken, step_ms))


def _step_ms(arm: TorchArm, workload: Workload) -> float:
    """Milliseconds per decode step, after the prefill."""
    arm.next_version()
    engine = arm.engine
    for request in requests(workload):
        engine.submit(request)
    marks: list[tuple[float, EngineCounters]] = []
    num_left = workload.num_sequences
    while num_left:
        num_left -= len(engine.step())
        marks.append((now(), engine.counters))
    end, last = marks[-1]
    start, first = next(mark for mark in marks if mark[1].num_prefill_tokens == last.num_prefill_tokens)
    return (end - start) * 1e3 / (last.num_decode_steps - first.num_decode_steps)


def _fit(step_ms: Mapping[Cell, float], num_tokens: Callable[[Cell], int]) -> float:
    """R² of the least-squares fit of the times by a constant, the number of sequences, and ``num_tokens``."""
    times = np.array(list(step_ms.values()))
    columns = np.array([[1, cell.num_sequences, num_tokens(cell)] for cell in step_ms], dtype=np.float64)
    fitted = columns @ np.linalg.lstsq(columns, times)[0]
    return float(1 - np.square(times - fitted).sum() / np.square(times - times.mean()).sum())


def _fits(step_ms: Mapping[Cell, float]) -> tuple[float, float]:
    """With distinct and with repeated keys and values."""
    return _fit(step_ms, lambda cell: cell.num_distinct), _fit(step_ms, lambda cell: cell.num_repeated)


def _figures(taken: Mapping[Cell, list[float]], step_ms: Mapping[Cell, float]) -> dict[str, Figure]:
    distinct, repeated = _fits(step_ms)
    num_cells = len(step_ms)
    return {
        "decode_step_ms": Figure.of([value for values in taken.values() for value in values], "ms"),
        "decode_fit_distinct_kv": Figure(distinct, distinct, distinct, num_cells, "R²"),
        "decode_fit_repeated_kv": Figure(repeated, repeated, repeated, num_cells, "R²"),
    }


def _lines(step_ms: Mapping[Cell, float], token_mib: float) -> Iterator[str]:
    yield from table_head(
        "prompts", "sequences", "prompt tokens", "decode step, ms", "distinct KV, MiB", "repeated KV, MiB"
    )
    for cell, value in step_ms.items():
        sizes = (f"{tokens * token_mib:.1f}" for tokens in (cell.num_distinct, cell.num_repeated))
        yield row(cell.num_prompts, cell.num_sequences, cell.num_prompt_tokens, f"{value:.2f}", *sizes)
    distinct, repeated = _fits(step_ms)
    yield ""
    yield (
        f"The number of sequences and the distinct keys and values (N P + B R, R = {NEW_TOKENS}) explain "
        f"{100 * distinct:.0f} % of the variance; with B (P + R) in their place it is {100 * repeated:.0f} %."
    )


def _draw(step_ms: Mapping[Cell, float], token_mib: float) -> str:
    distinct = [_point(cell, cell.num_distinct * token_mib, value) for cell, value in step_ms.items()]
    repeated = [_point(cell, cell.num_repeated * token_mib, value) for cell, value in step_ms.items()]
    return picture(
        "Time of a decode step, ms. Filled: all sequences share one prompt; hollow: each has its own",
        [
            Panel("distinct keys and values, MiB", distinct),
            Panel("keys and values if every sequence had its own prompt, MiB", repeated),
        ],
    )


def _point(cell: Cell, x: float, y: float) -> Point:
    label = f"{cell.num_prompts} prompts of {cell.num_prompt_tokens} tokens, {cell.num_sequences} sequences: {y:.2f} ms"
    return Point(x, y, f"{cell.num_sequences} sequences", label, is_hollow=cell.num_prompts > 1)
