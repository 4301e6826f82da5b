"""Commits of this repository whose messages claim a speed-up."""

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
_STEP = ("shared.tokens_per_second", "shared.loss_forward_ms", "shared.backward_ms")

CLAIMS = (
    Claim("62a7ae8", "half the time of a prompt", "5", "raise_tokens_per_second", ("full.tokens_per_second",)),
    Claim("3c51c55", "attention over prefix trees in compiled code", "3", "shared_prefix", _STEP),
    Claim("c32214d", "only the rows of the last layer that predict something", "3", "shared_prefix", _STEP),
    Claim(
        "67f2699",
        "drawing in compiled code, a fifth of a decode step with another change",
        "2",
        "a_batch_beats",
        _BATCH,
    ),
)
