"""Commits of this repository whose messages claim a speed-up. Tests that use ``grpo_system`` run from 2b2824d on: older
trees built their systems in another way."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Claim:
    """What a commit says that it makes faster, and the rows that measure it."""

    commit: str
    text: str
    phases: str
    tests: str
    """For ``-k``."""
    metrics: tuple[str, ...]


_BATCH = ("batched.tokens_per_second", "single.tokens_per_second")

CLAIMS = (
    Claim("62a7ae8", "half the time of a prompt", "5", "raise_tokens_per_second", ("full.tokens_per_second",)),
    Claim("b0217f2", "a step waited for checksums and for the disk", "4", "whole_steps", ("steps.tokens_per_second",)),
    Claim(
        "67f2699",
        "draws in compiled code and no annotations: a fifth of a decode step",
        "2",
        "a_batch_beats",
        _BATCH,
    ),
)
