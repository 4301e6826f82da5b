"""Matrix products in compiled code: logits, and the packed layout of weights for the forward pass.

Legend: B rows, V vocabulary, C ids.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch
from torch import Tensor

from grpo_core.kernels.compiler import load_kernels
from grpo_core.kernels.crew import Crew, open_crew
from grpo_core.rollout.torch_engine.weights.fused import Linear

SOURCE = Path(__file__).with_name("products.c")
PANEL = 16  # rows of a packed weight that are interleaved

_Pointer = ctypes.c_void_p
_Int = ctypes.c_int64


class _Head(ctypes.Structure):
    _fields_ = [
        *((name, _Pointer) for name in ("hidden", "weight", "bias", "ids")),
        *((name, _Int) for name in ("num_rows", "in_", "num_ids", "vocab_size")),
        ("logits", _Pointer),
    ]


class NativeProducts:
    """Products by the threads of ``crew``."""

    def __init__(self, kernels: ctypes.CDLL, crew: Crew) -> None:
        self._logits, self._pack = kernels.grpo_logits, kernels.grpo_pack
        self._logits.argtypes = [_Pointer, _Pointer, _Int]
        self._pack.argtypes = [_Pointer, _Int, _Int, _Pointer, _Pointer, _Int]
        self._logits.restype = self._pack.restype = ctypes.c_int
        self.crew = crew

    def logits(self, head: Linear, hidden: Tensor, ids: Tensor | None = None) -> Tensor:
        """As ``decoder.apply_head``, [B, V] or [B, C]; a logit has the same bits whatever else is asked for."""
        hidden, weight = hidden.contiguous(), head.weight.contiguous()
        ids = None if ids is None else ids.contiguous()
        logits = torch.empty(len(hidden), len(weight if ids is None else ids))
        asked = _Head(
            hidden=hidden.data_ptr(),
            weight=weight.data_ptr(),
            bias=None if head.bias is None else head.bias.data_ptr(),
            ids=None if ids is None else ids.data_ptr(),
            num_rows=len(hidden),
            in_=hidden.shape[1],
            num_ids=logits.shape[1],
            vocab_size=len(weight),
            logits=logits.data_ptr(),
        )
        if self._logits(ctypes.byref(asked), self.crew.run_stages, self.crew.num_threads):
            raise torch.OutOfMemoryError(f"logits of {len(hidden)} rows: out of memory")
        return logits

    def pack(self, weight: Tensor) -> Tensor:
        """``weight`` [out, in] as [out / PANEL, in, PANEL]."""
        packed = torch.empty(len(weight) // PANEL, weight.shape[1], PANEL)
        self.write(packed, weight, 0)
        return packed

    def write(self, packed: Tensor, weight: Tensor, start: int) -> None:
        """``weight`` [rows, in] to the rows of ``packed`` from ``start`` on; both are whole panels."""
        assert start % PANEL == len(weight) % PANEL == 0
        weight = weight.float().contiguous()
        target = packed[start // PANEL : (start + len(weight)) // PANEL]
        assert target.is_contiguous()
        assert target.numel() == weight.numel()
        if self._pack(weight.data_ptr(), *weight.shape, target.data_ptr(), self.crew.run_stages, self.crew.num_threads):
            raise torch.OutOfMemoryError("packing weights: out of memory")


def open_products() -> NativeProducts | None:
    """Compiled code, or None where this machine cannot build it."""
    kernels = load_kernels(SOURCE)
    crew = open_crew() if kernels is not None else None
    return NativeProducts(kernels, crew) if kernels is not None and crew is not None else None
