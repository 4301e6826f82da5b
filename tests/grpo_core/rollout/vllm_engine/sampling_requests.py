"""Requests to the engine, of every kind."""

from __future__ import annotations

from typing import Any

import numpy as np

from grpo_core.rollout.constraints.lines import LineConstraint
from grpo_core.rollout.protocol import GenerationRequest, SamplingParams
from grpo_core.types import Int32

LINES = ((11, 12, 7), (11, 13, 7), (14, 7))


def prompt(seed: int, length: int) -> Int32:
    return np.random.default_rng(seed).integers(1, 300, length, dtype=np.int32)


def request(prompt_ids: Int32, seed: int = 0, **options: Any) -> GenerationRequest:
    names = {"constraint", "want_ref_logprobs", "policy_version"} & options.keys()
    outer = {name: options.pop(name) for name in names}
    sampling: dict[str, Any] = {"max_tokens": 12} | options
    return GenerationRequest(prompt_ids, SamplingParams(seed=seed, **sampling), **outer)


def mixed_requests() -> list[GenerationRequest]:
    constraint = LineConstraint((LINES, LINES), distinct=True)
    return [
        request(prompt(0, 40), 1, temperature=0.7),
        request(prompt(0, 40), 2, temperature=1.3, top_p=0.8),
        request(prompt(1, 70), 3, top_k=5, min_p=0.1, top_p=0.9),
        request(prompt(2, 9), 2**64 - 1, constraint=constraint, temperature=1.4),
        request(prompt(0, 40), 5, constraint=constraint, top_p=0.7),
        request(prompt(3, 33), 6, ignore_stop=True, max_tokens=30),
        request(prompt(3, 33), 7, stop_ids=tuple(range(0, 300, 3))),
        request(prompt(4, 1), 8, min_p=0.05),
    ]
