"""A LoRA adapter on a frozen linear module, as one autograd function (Hu et al. 2021).

Legend: T rows, r rank.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn

from grpo_core.kernels.linear import FrozenLinear, linear
from grpo_core.training.forward.layers.conditions import is_frozen, is_plain


class FrozenBaseLora(Linear):
    """PEFT's module, with a fast path for a single adapter without dropout on a frozen linear module."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        base, names = self.base_layer, self.active_adapters
        is_single = len(names) == 1 and not self.disable_adapters and not self.merged and not self.lora_variant
        is_fast = is_single and not args and not kwargs and is_plain(x)
        if not is_fast or type(base) is not FrozenLinear or not is_frozen(base, x.dtype):
            return super().forward(x, *args, **kwargs)
        (name,) = names
        a, b = self.lora_A[name], self.lora_B[name]
        is_bare = type(a) is nn.Linear and type(b) is nn.Linear and a.bias is None and b.bias is None
        if not is_bare or a.weight.dtype != x.dtype or not isinstance(self.lora_dropout[name], nn.Identity):
            return super().forward(x)
        rows = x.reshape(-1, x.shape[-1])
        output = _Adapted.apply(rows, base.weight, base.bias, a.weight, b.weight, self.scaling[name])
        return output.view(*x.shape[:-1], -1)  # pyright: ignore[reportAttributeAccessIssue]


class _Adapted(torch.autograd.Function):
    """x W^T + c + s (x A^T) B^T of ``x`` [T, in], ``weight`` [out, in], ``a`` [r, in] and ``b`` [out, r]."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scaling: float
    ) -> Tensor:
        low = linear(x, a)
        ctx.save_for_backward(x, weight, a, b, low)
        ctx.scaling = scaling
        return linear(x, weight, bias).addmm_(low, b.t(), alpha=scaling)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, a, b, low = ctx.saved_tensors
        given, scaling = gradients[0], ctx.scaling
        to_low = linear(given, b.t()).mul_(scaling)
        to_a = linear(to_low.t().contiguous(), x.t())
        to_b = linear(low.t().contiguous(), given.t()).t() * scaling
        to_x = linear(given, weight.t()).addmm_(to_low, a) if ctx.needs_input_grad[0] else None
        return to_x, None, None, to_a, to_b, None
