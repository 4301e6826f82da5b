"""What is judged of a run, whichever stack left the log: names, units, and which side is worse."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number per step. ``worse_side`` is 1 where more is worse, -1 where less is.

    ``is_ratio``: above zero, so that a change is a factor. Else a change is a difference. ``is_part``: seconds of the
    step that no other part has, too.
    """

    name: str
    unit: str
    worse_side: int
    is_ratio: bool = True
    is_part: bool = False


STEP = Quantity("step_s", "s", 1)
"""As the stack itself measures a step."""
CYCLE = Quantity("cycle_s", "s", 1)
"""From the end of one step to the end of the next: with the waits that ``step_s`` leaves out."""
ROLLOUT = Quantity("rollout_s", "s", 1)
BROADCAST = Quantity("broadcast_weights_s", "s", 1)
TOKENS = Quantity("tokens_per_second", "tokens/s", -1)
LAG = Quantity("lag_steps", "steps", 1, is_ratio=False)
REWARD = Quantity("reward", "", -1, is_ratio=False)
MEMORY = Quantity("memory_bytes", "bytes", 1)
PEAK_MEMORY = Quantity("peak_memory_bytes", "bytes", 1)

HEADLINES = (STEP, CYCLE, ROLLOUT, BROADCAST, TOKENS, LAG, REWARD, MEMORY, PEAK_MEMORY)
"""In the order of a table. These decide the exit code; parts of the step explain."""


def part(name: str) -> Quantity:
    """The part ``gen`` of a step is ``gen_s``."""
    return Quantity(f"{name}_s", "s", 1, is_part=True)
