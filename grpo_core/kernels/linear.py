"""Linear layers by the fastest exact kernel that this machine has.

On a CPU torch multiplies float32 matrices with MKL, which leaves half of the vector width of processors that are not
Intel's unused. oneDNN, in the same torch, takes all of it. On two cores of an AMD EPYC (Zen 5), microseconds for 64 and
944 rows times [1792, 256]: MKL 311 and 3,933, oneDNN 146 and 1,767.

Legend: T rows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from grpo_core.kernels.private_ops import onednn_linear

MIN_ROWS = 2  # for a single row F.linear is faster


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x W^T + b`` of ``x`` [..., in], ``weight`` [out, in] and ``bias`` [out]: [..., out]. Records no gradient.

    For an ``x`` [rows, in] the result is no view of a larger tensor.
    """
    if not has_fast_linear(x) or weight.dtype != torch.float32:
        return F.linear(x, weight, bias)
    rows = x if x.dim() == 2 else x.reshape(-1, x.shape[-1])
    num_rows = len(rows)
    if num_rows < MIN_ROWS:
        return F.linear(x, weight, bias)
    assert onednn_linear is not None
    # oneDNN has no fast kernel for a weight with gaps between its rows: it takes a thousand times as long.
    if not (weight.is_contiguous() or weight.t().is_contiguous()):
        weight = weight.contiguous()
    num_more = -num_rows % _row_step(num_rows)
    if num_more:
        rows = F.pad(rows, (0, 0, 0, num_more))
    y = onednn_linear(rows, weight, bias, "none", [], "")[:num_rows]
    return _owned(y) if x.dim() == 2 else y.view(*x.shape[:-1], len(weight))


def _owned(view: Tensor) -> Tensor:
    """The memory of ``view`` as a tensor that is no view: models may change the result of a module in place, and torch
    forbids that for a view that an autograd function returns."""
    return view.new_empty(0).set_(view)  # pyright: ignore[reportArgumentType]  # a tensor is a source, too


def _row_step(num_rows: int) -> int:
    """Rows are padded to a multiple of this: oneDNN compiles a kernel, in 0.3 ms and more, for each new number."""
    return 8 if num_rows <= 64 else 32 if num_rows <= 512 else 64


def has_fast_linear(x: Tensor) -> bool:
    """Whether ``linear`` of ``x`` runs on oneDNN."""
    return onednn_linear is not None and x.device.type == "cpu" and x.dtype == torch.float32


class FrozenLinear(nn.Linear):
    """A linear module whose weight is not trained: both products, forward and backward, go through ``linear``.

    Without that kernel, under autocast, or once the weight is trained, it falls back to ``nn.Linear``.
    """

    def forward(self, input: Tensor) -> Tensor:
        is_trained = self.weight.requires_grad or (self.bias is not None and self.bias.requires_grad)
        if is_trained or not has_fast_linear(input) or torch.is_autocast_enabled(input.device.type):
            return super().forward(input)
        if self.weight.dtype != input.dtype:
            return super().forward(input)
        rows = input.reshape(-1, self.in_features)
        output = _FrozenProduct.apply(rows, self.weight, self.bias)
        return output.view(*input.shape[:-1], self.out_features)  # pyright: ignore[reportAttributeAccessIssue]


class _FrozenProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return linear(gradients[0], weight.t()), None, None


def freeze_linears(model: nn.Module) -> None:
    """Make every linear module of ``model`` whose weight is not trained a ``FrozenLinear``. Its parameters stay.

    oneDNN takes the weights as they lie, so no packed copy is kept. A product with packed ones is 3 % faster.
    """
    for module in model.modules():
        if type(module) is nn.Linear and not module.weight.requires_grad:
            module.__class__ = FrozenLinear
