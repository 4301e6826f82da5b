"""Rotary position embedding on paired halves (Su et al. 2021), as in ``transformers``' Llama and Qwen.

The torch engine has its own, for another memory layout.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """``x`` [..., T, heads, D] by ``cosine`` and ``sine`` [..., T, D], whose two halves are equal."""
    return _Rotation.apply(x, cosine[..., None, :], sine[..., None, :])  # pyright: ignore[reportReturnType]


class _Rotation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        ctx.save_for_backward(cosine, sine)
        return _rotated(x, cosine, sine, 1.0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        cosine, sine = ctx.saved_tensors
        return _rotated(gradients[0], cosine, sine, -1.0), None, None


def _rotated(x: Tensor, cosine: Tensor, sine: Tensor, direction: float) -> Tensor:
    half = x.shape[-1] // 2
    result = x * cosine
    result[..., :half].addcmul_(x[..., half:], sine[..., :half], value=-direction)
    result[..., half:].addcmul_(x[..., :half], sine[..., half:], value=direction)
    return result
