"""How rollouts and training share the cores of a CPU."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from grpo_core.config import GrpoConfig


@contextmanager
def own_torch_threads(config: GrpoConfig, num_processes: int = 1) -> Iterator[None]:
    """Limit the calling thread to its share of the cores, so that rollouts and training do not compete for them."""
    before = torch.get_num_threads()
    torch.set_num_threads(num_torch_threads(config, num_processes))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def num_torch_threads(config: GrpoConfig, num_processes: int = 1) -> int:
    """Threads for rollouts, and as many for training, in each of ``num_processes`` on this machine."""
    if config.schedule.torch_threads is not None:
        return config.schedule.torch_threads
    sharing = 2 if config.schedule.max_policy_lag_steps > 0 else 1
    return max(1, (os.cpu_count() or 1) // (sharing * num_processes))
