"""The bytes that a decode step needs at least, and how many the device reads in a second.

A decode step multiplies few rows with every weight, so it takes as long as reading them: its speed is a share of the
device's bandwidth, as training's is of its rate of operations.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch

from grpo_core.training.utilization.device_clock import device_seconds

_NUM_TRIES = 5
_WIDTH = 1024
_MAX_BYTES = {"cpu": 256 << 20, "cuda": 1 << 30}  # more than any cache holds


@dataclass(frozen=True, slots=True)
class Reads:
    """``num_bytes`` of weights per decode step, of a device that reads ``rate`` bytes per second."""

    num_bytes: int
    rate: float

    @classmethod
    def measure(cls, device: torch.device, num_bytes: int, num_threads: int) -> Reads:
        """For steps that read ``num_bytes`` on ``device``."""
        return cls(num_bytes, read_rate(device, num_bytes, num_threads))

    def share(self, num_steps: int, seconds: float) -> float | None:
        """The share of the bandwidth that ``num_steps`` in ``seconds`` take; None where nothing was decoded."""
        return num_steps * self.num_bytes / (seconds * self.rate) if num_steps and seconds > 0 else None


@lru_cache(maxsize=8)
def read_rate(device: torch.device, num_bytes: int, num_threads: int) -> float:
    """Bytes per second of the product of a matrix of ``num_bytes`` and a vector: the best of five. What fits into a
    cache is read from there, as a small model's weights are. On a CPU with ``num_threads`` of its threads, which the
    caller has set."""
    num_rows = max(1, min(num_bytes, _MAX_BYTES.get(device.type, _MAX_BYTES["cpu"])) // (4 * _WIDTH))
    matrix = torch.ones(num_rows, _WIDTH, device=device)
    vector = torch.ones(_WIDTH, device=device)
    best_s = min(device_seconds(device, lambda: torch.mv(matrix, vector)) for _ in range(_NUM_TRIES))
    return 4.0 * matrix.numel() / best_s
