"""What a forked process must not do: compute with the threads of its parent."""

from __future__ import annotations

import os
from functools import cache

import torch


@cache
def compute_alone_when_forked() -> None:
    """Let processes that are forked from this one compute in one thread, unless they ask for more.

    The parent's OpenMP threads are not in the child, but OpenMP counts on them: a pass there would wait for ever.
    """
    os.register_at_fork(after_in_child=_compute_alone)


def _compute_alone() -> None:
    torch.set_num_threads(1)
