"""Draws of rows that keep all their candidates, in compiled code.

Legend: B rows, C candidates.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from grpo_core.kernels.compiler import load_kernels
from grpo_core.kernels.crew import Crew

SOURCE = Path(__file__).with_name("draws.c")
EXACT = "-ffp-contract=off"  # as that of the passes: all lanes round alike

_Pointer = ctypes.c_void_p
_Int = ctypes.c_int64


class _Draws(ctypes.Structure):
    _fields_ = [
        ("logits", _Pointer),
        ("num_rows", _Int),
        ("num_columns", _Int),
        *((name, _Pointer) for name in ("temperatures", "uniforms", "columns", "probabilities")),
    ]


class NativeDraws:
    """Draws by the threads of ``crew``. A row's token depends on nothing else in the batch."""

    def __init__(self, kernels: ctypes.CDLL, crew: Crew) -> None:
        self._draw = kernels.grpo_draw
        self._draw.argtypes = [_Pointer, _Pointer, _Int]
        self._draw.restype = ctypes.c_int
        self._crew = crew

    def __call__(
        self, logits: Tensor, temperatures: Sequence[float], uniforms: Sequence[float]
    ) -> tuple[list[int], list[float]]:
        """A column of each row of ``logits`` [B, C] float32, and its probability: NaN where there is no distribution.

        Raises:
            torch.OutOfMemoryError: the sums do not fit in memory.
        """
        logits = logits.contiguous()
        num_rows, num_columns = logits.shape
        heat = np.array(temperatures, dtype=np.float32)
        points = np.array(uniforms, dtype=np.float64)
        columns = np.empty(num_rows, dtype=np.int64)
        probabilities = np.empty(num_rows, dtype=np.float32)
        asked = _Draws(
            logits=logits.data_ptr(),
            num_rows=num_rows,
            num_columns=num_columns,
            temperatures=heat.ctypes.data,
            uniforms=points.ctypes.data,
            columns=columns.ctypes.data,
            probabilities=probabilities.ctypes.data,
        )
        if self._draw(ctypes.byref(asked), self._crew.run_stages, self._crew.num_threads):
            raise torch.OutOfMemoryError(f"draws from {num_rows} rows of {num_columns} logits: out of memory")
        return columns.tolist(), probabilities.tolist()


def open_draws(crew: Crew) -> NativeDraws | None:
    """Compiled code, or None where this machine cannot build it."""
    kernels = load_kernels(SOURCE, EXACT)
    return NativeDraws(kernels, crew) if kernels is not None else None
