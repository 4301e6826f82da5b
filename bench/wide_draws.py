"""What it costs to draw rows that a constraint leaves most of a real vocabulary, beside rows without a constraint.

    uv run python -m bench.wide_draws

Both draw 8 rows of the same logits, in random order, again and again.
"""

from __future__ import annotations

import argparse
import random
import time
from statistics import median

import numpy as np
import torch

from grpo_core.rollout.protocol import SamplingParams
from grpo_core.rollout.sampling import draw_tokens
from grpo_core.types import Int32

VOCAB_SIZE, NUM_ROWS, NUM_PAIRS = 151_936, 8, 25


def draw_ms(logits: torch.Tensor, allowed: list[Int32 | None]) -> float:
    params = [SamplingParams(seed) for seed in range(NUM_ROWS)]
    start = time.perf_counter()
    draw_tokens(logits, params, [0.1 * row for row in range(NUM_ROWS)], allowed)
    return (time.perf_counter() - start) * 1e3


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    rng = np.random.default_rng(0)
    logits = torch.randn(NUM_ROWS, VOCAB_SIZE)
    ids = [np.sort(rng.permutation(VOCAB_SIZE)[:120_000]).astype(np.int32) for _ in range(NUM_ROWS)]
    arms: dict[str, list[Int32 | None]] = {"free": [None] * NUM_ROWS, "wide": list(ids)}
    times: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(NUM_PAIRS):
        for name in random.sample(sorted(arms), len(arms)):
            times[name].append(draw_ms(logits, arms[name]))
    ratios = np.sort([wide / free for wide, free in zip(times["wide"], times["free"], strict=True)])
    print(f"8 free rows {median(times['free']):.1f} ms, 8 rows with 120,000 of {VOCAB_SIZE:,} ids ", end="")
    print(f"{median(times['wide']):.1f} ms; ratio {median(ratios):.2f} ({ratios[2]:.2f} to {ratios[-3]:.2f})")


if __name__ == "__main__":
    main()
