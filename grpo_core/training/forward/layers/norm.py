"""RMSNorm with a frozen weight (Zhang & Sennrich 2019), fused into few passes over memory. Legend: E hidden size."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from grpo_core.training.forward.layers.conditions import is_frozen, is_plain


class _FrozenNorm:
    def forward(self, hidden_states: Tensor) -> Tensor:
        assert isinstance(self, LlamaRMSNorm | Qwen2RMSNorm | Qwen3RMSNorm)
        if not is_plain(hidden_states) or not is_frozen(self, hidden_states.dtype):
            return super().forward(hidden_states)  # pyright: ignore[reportAttributeAccessIssue]
        return _Norm.apply(hidden_states, self.weight, self.variance_epsilon)  # pyright: ignore[reportReturnType]


class FrozenLlamaNorm(_FrozenNorm, LlamaRMSNorm):
    pass


class FrozenQwen2Norm(_FrozenNorm, Qwen2RMSNorm):
    pass


class FrozenQwen3Norm(_FrozenNorm, Qwen3RMSNorm):
    pass


class _Norm(torch.autograd.Function):
    """y = w x / s with s^2 = mean(x^2) + epsilon, and its gradient (w g - x mean(w g x) / s^2) / s. [..., E]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        inverse = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, weight, inverse)
        return torch.mul(x, inverse).mul_(weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        x, weight, inverse = ctx.saved_tensors
        given = gradients[0] * weight
        factor = torch.linalg.vecdot(given, x)[..., None].mul_(inverse).mul_(inverse).div_(x.shape[-1])
        return given.addcmul_(x, factor, value=-1).mul_(inverse), None, None
