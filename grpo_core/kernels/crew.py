"""Threads of compiled code (``crew.c``): a stage of their work ends without those that the system has not let run."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path

import torch

from grpo_core.kernels.compiler import load_kernels

SOURCE = Path(__file__).with_name("crew.c")

_num_threads: ContextVar[int | None] = ContextVar("grpo_crew_threads", default=None)
"""Of the crew, while it leads in this thread."""


class Crew:
    """The crew of this process. ``run_stages`` is the address that other compiled code calls.

    Torch has threads of its own (OpenMP's), which spin on their cores for milliseconds after each operation that they
    share. While the crew leads, torch therefore computes in one thread.
    """

    def __init__(self, kernels: ctypes.CDLL) -> None:
        address = ctypes.cast(kernels.grpo_run_stages, ctypes.c_void_p).value
        assert address is not None
        self.run_stages = address
        self._set_openmp_threads = kernels.grpo_set_openmp_threads

    @property
    def num_threads(self) -> int:
        """How many threads go through stages, the calling one included: as many as torch has where it leads."""
        leading = _num_threads.get()
        return torch.get_num_threads() if leading is None else leading

    @contextmanager
    def leading(self) -> Iterator[None]:
        """Within it this thread's compiled stages use all threads, and torch one: idle threads of torch would spin."""
        before = _num_threads.set(torch.get_num_threads())
        num_openmp = self._set_openmp_threads(1)
        try:
            yield
        finally:
            self._set_openmp_threads(num_openmp)
            _num_threads.reset(before)

    @contextmanager
    def torch_leading(self) -> Iterator[None]:
        """Torch has its threads again, for work that is worth it."""
        before = _num_threads.set(None) if (num := _num_threads.get()) is not None else None
        if before is None or num is None:
            yield
            return
        self._set_openmp_threads(num)
        try:
            yield
        finally:
            self._set_openmp_threads(1)
            _num_threads.reset(before)


@cache
def open_crew() -> Crew | None:
    """None where compiled code cannot be built."""
    kernels = load_kernels(SOURCE, "-pthread")
    return Crew(kernels) if kernels is not None else None
