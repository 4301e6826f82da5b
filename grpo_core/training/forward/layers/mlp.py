"""The gated MLP of Llama and Qwen with frozen weights, some rows at a time, so that they stay in the CPU's cache.

Legend: T rows, E hidden size, I intermediate size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.activations import SiLUActivation
from transformers.models.llama.modeling_llama import LlamaMLP
from transformers.models.qwen2.modeling_qwen2 import Qwen2MLP
from transformers.models.qwen3.modeling_qwen3 import Qwen3MLP

from grpo_core.kernels.linear import FrozenLinear, linear
from grpo_core.kernels.private_ops import silu_backward
from grpo_core.training.forward.layers.conditions import is_frozen, is_plain

PART_ROWS = 512


class _FrozenMlp:
    def forward(self, x: Tensor) -> Tensor:
        assert isinstance(self, LlamaMLP | Qwen2MLP | Qwen3MLP)
        maps = (self.gate_proj, self.up_proj, self.down_proj)
        is_silu = isinstance(self.act_fn, nn.SiLU | SiLUActivation)
        is_linear = all(type(part) is FrozenLinear and part.bias is None for part in maps)
        if not is_plain(x) or not is_silu or not is_linear or not is_frozen(self, x.dtype):
            return super().forward(x)  # pyright: ignore[reportAttributeAccessIssue]
        rows = x.reshape(-1, x.shape[-1])
        return _GatedMlp.apply(rows, *(part.weight for part in maps)).view_as(x)  # pyright: ignore[reportGeneralTypeIssues]


class FrozenLlamaMlp(_FrozenMlp, LlamaMLP):
    pass


class FrozenQwen2Mlp(_FrozenMlp, Qwen2MLP):
    pass


class FrozenQwen3Mlp(_FrozenMlp, Qwen3MLP):
    pass


class _GatedMlp(torch.autograd.Function):
    """(silu(x G^T) * (x U^T)) D^T of ``x`` [T, E], ``gate`` and ``up`` [I, E], ``down`` [E, I]. It keeps x G^T and
    x U^T."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
        output = torch.empty_like(x)
        kept: list[Tensor] = []
        for rows, target in zip(x.split(PART_ROWS), output.split(PART_ROWS), strict=True):
            gates, ups = linear(rows, gate), linear(rows, up)
            target.copy_(linear(F.silu(gates).mul_(ups), down))
            if ctx.needs_input_grad[0]:
                kept += [gates, ups]
        ctx.save_for_backward(gate, up, down, *kept)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        gate, up, down, *kept = ctx.saved_tensors
        to_x = torch.empty_like(gradients[0])
        parts = zip(gradients[0].split(PART_ROWS), to_x.split(PART_ROWS), kept[::2], kept[1::2], strict=True)
        for given, target, gates, ups in parts:
            to_product = linear(given, down.t())
            to_ups = F.silu(gates).mul_(to_product)
            to_gates = to_product.mul_(ups)
            silu_backward(to_gates, gates, grad_input=to_gates)
            torch.add(linear(to_gates, gate.t()), linear(to_ups, up.t()), out=target)
        return to_x, None, None, None
