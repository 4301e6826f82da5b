"""Replace a model's modules by the faster versions of this folder."""

from __future__ import annotations

from peft.tuners.lora import Linear
from torch import nn
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaMLP, LlamaRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer, Qwen2MLP, Qwen2RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer, Qwen3MLP, Qwen3RMSNorm

from grpo_core.kernels.linear import freeze_linears
from grpo_core.training.forward.layers.decoder_layer import TreeLlamaLayer, TreeQwen2Layer, TreeQwen3Layer
from grpo_core.training.forward.layers.lora import FrozenBaseLora
from grpo_core.training.forward.layers.mlp import FrozenLlamaMlp, FrozenQwen2Mlp, FrozenQwen3Mlp
from grpo_core.training.forward.layers.norm import FrozenLlamaNorm, FrozenQwen2Norm, FrozenQwen3Norm

_FAST: dict[type[nn.Module], type[nn.Module]] = {
    LlamaDecoderLayer: TreeLlamaLayer,
    LlamaMLP: FrozenLlamaMlp,
    LlamaRMSNorm: FrozenLlamaNorm,
    Qwen2DecoderLayer: TreeQwen2Layer,
    Qwen2MLP: FrozenQwen2Mlp,
    Qwen2RMSNorm: FrozenQwen2Norm,
    Qwen3DecoderLayer: TreeQwen3Layer,
    Qwen3MLP: FrozenQwen3Mlp,
    Qwen3RMSNorm: FrozenQwen3Norm,
    Linear: FrozenBaseLora,
}


def use_fast_parts(model: nn.Module) -> None:
    """Switch every module of ``model`` that has a faster version to it. Parameters, names and hooks stay."""
    freeze_linears(model)
    for module in model.modules():
        if type(module) in _FAST:
            module.__class__ = _FAST[type(module)]
