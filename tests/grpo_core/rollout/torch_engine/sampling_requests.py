"""Requests to an engine: chosen ones and random mixes."""

from __future__ import annotations

import numpy as np

from grpo_core.rollout.constraints.lines import LineConstraint
from grpo_core.rollout.protocol import GenerationRequest, SamplingParams
from grpo_core.types import Int32

STOP_ID = 0
NO_STOP = -1


def prompt(seed: int, length: int) -> Int32:
    return np.random.default_rng(seed).integers(1, 320, length, dtype=np.int32)


def request(
    prompt_ids: Int32,
    seed: int = 0,
    *,
    temperature: float = 1.0,
    top_p: float = 1.0,
    max_tokens: int = 12,
    constraint: LineConstraint | None = None,
    want_ref: bool = False,
    version: int | None = None,
) -> GenerationRequest:
    sampling = SamplingParams(seed, temperature=temperature, top_p=top_p, max_tokens=max_tokens)
    return GenerationRequest(prompt_ids, sampling, constraint, want_ref, version)


def random_constraint(rng: np.random.Generator, *, distinct: bool = False) -> LineConstraint:
    """Up to three segments of up to six lines that share prefixes; the last token of a line is 7 and only that."""

    def segment() -> tuple[tuple[int, ...], ...]:
        return tuple((*rng.integers(20, 23, rng.integers(1, 5)).tolist(), 7) for _ in range(rng.integers(1, 7)))

    first = segment()
    num = int(rng.integers(1, 4))
    if distinct:
        return LineConstraint((first,) * min(num, len(set(first))), distinct=True)
    return LineConstraint((first, *(segment() for _ in range(num - 1))))


def random_requests(rng: np.random.Generator, num_groups: int, *, want_ref: bool = False) -> list[GenerationRequest]:
    """Groups of 1 to 4 siblings, shuffled, with and without constraints, at several temperatures and lengths."""
    requests = []
    for group in range(num_groups):
        prompt_ids = prompt(int(rng.integers(1000)) + 1000 * group, int(rng.integers(1, 40)))
        constraint = random_constraint(rng, distinct=bool(rng.integers(2))) if rng.random() < 0.5 else None
        for _ in range(int(rng.integers(1, 5))):
            requests.append(
                request(
                    prompt_ids,
                    int(rng.integers(2**63)),
                    temperature=float(rng.choice([0.5, 0.75, 1.0, 1.5])),
                    top_p=float(rng.choice([0.8, 0.9, 1.0])),
                    max_tokens=int(rng.integers(1, 20)),
                    constraint=constraint,
                    want_ref=want_ref,
                )
            )
    order = rng.permutation(len(requests))
    return [requests[index] for index in order]
