"""A run's mean reward by step, drawn with characters: the learning curve at the end of ``grpo train``."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

_BLOCKS = " ▁▂▃▄▅▆▇█"
_ASCII_BLOCKS = 4 * " " + 5 * "#"
_NUM_ROWS = 6
_MAX_COLUMNS = 60


def reward_chart(rewards: Sequence[float], first_step: int, *, ascii_only: bool = False) -> list[str]:
    """The lines of a chart of ``rewards``, of the steps from ``first_step`` on. A column is the mean of equally many
    steps, up to one; its height is exact to an eighth of a character, or, with
    ``ascii_only``, to a whole one. The axis begins at 0, or at the lowest value."""
    blocks = _ASCII_BLOCKS if ascii_only else _BLOCKS
    columns = _means(rewards, min(len(rewards), _MAX_COLUMNS))
    low, high = min(0.0, *columns), max(columns)
    value_range = high - low or 1.0
    heights = [round((value - low) / value_range * _NUM_ROWS * 8) for value in columns]
    lines = []
    for row in reversed(range(_NUM_ROWS)):
        label = {_NUM_ROWS - 1: f"{high:.3f}", 0: f"{low:.3f}"}.get(row, "")
        cells = "".join(blocks[min(max(height - 8 * row, 0), 8)] for height in heights)
        lines.append(f"{label:>7} |{cells}".rstrip())
    first, last = f"step {first_step}", str(first_step + len(rewards) - 1)
    return [*lines, f"{'reward':>7}  {first}{last:>{max(len(columns) - len(first), len(last) + 1)}}"]


def _means(values: Sequence[float], num: int) -> list[float]:
    """``num`` means of neighbouring values."""
    bounds = [len(values) * index // num for index in range(num + 1)]
    return [sum(values[start:end]) / (end - start) for start, end in itertools.pairwise(bounds)]
