"""What a power has earned: the supply centres it gained, and whether it is still there."""

from __future__ import annotations

CENTERS_TO_WIN = 18


def power_reward(num_centers_before: int, num_centers_after: int, survives: bool) -> float:
    """``(after - before) / 18``, cut to [-1, 1]; -1 for a power that was eliminated in between.

    18 centres win the game, so a reward of 1 is the way from no centre to victory. A power that was eliminated before
    earns 0.

    >>> power_reward(3, 5, survives=True)
    0.1111111111111111
    """
    if not survives:
        return -1.0 if num_centers_before > 0 else 0.0
    return max(-1.0, min(1.0, (num_centers_after - num_centers_before) / CENTERS_TO_WIN))
