"""The soft overlong penalty: an answer near the maximum length earns less, to teach the policy to stop in time."""

from __future__ import annotations


def overlong_penalty(num_tokens: int, *, max_tokens: int, buffer_tokens: int) -> float:
    """From 0 to -1: 0 up to ``max_tokens - buffer_tokens``, from there on a straight line to -1 at ``max_tokens``.

    Yu et al. 2025, DAPO, eq. 13. With a buffer of 0 there is no penalty.
    """
    if buffer_tokens == 0:
        return 0.0
    num_free = max_tokens - buffer_tokens
    return max(-1.0, min(0.0, (num_free - num_tokens) / buffer_tokens))
