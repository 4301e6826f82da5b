"""Full weights at sampling time: a copy of the whole decoder, which each new version overwrites."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from grpo_core.lora.check import check_full_weights
from grpo_core.rollout.torch_engine.weights.fused import DecoderWeights, LayerWeights, Linear
from grpo_core.rollout.torch_engine.weights.products import NativeProducts
from grpo_core.types import FullWeights


@torch.inference_mode()
def write_weights(
    full: FullWeights,
    base: DecoderWeights,
    fingerprint: str,
    *,
    over: DecoderWeights | None = None,
    products: NativeProducts | None = None,
) -> DecoderWeights:
    """A decoder with the weights of ``full``, in the dtype of ``base``: in the copy ``over``, or in a new one. With
    ``products`` it is packed.

    Raises:
        AdapterError: as ``check_full_weights``. ``over`` is unchanged then.
    """
    check_full_weights(full, fingerprint, named_tensors(base))
    copy = over if over is not None else _copy(base, products)
    for name, tensor in _named_others(copy).items():
        tensor.copy_(full.tensors[name])
    for name, place in copy.places.items():
        weight, value = copy.layers[place.layer].linear(place.linear).weight, full.tensors[f"{name}.weight"]
        if products is not None:
            products.write(weight, value, place.start)
        else:
            weight[place.start : place.stop] = value
    return copy


def named_tensors(weights: DecoderWeights) -> dict[str, Tensor]:
    """Views of all ``weights``, which must not be packed, by their names in the model, tied ones once."""
    named = _named_others(weights)
    for name, place in weights.places.items():
        named[f"{name}.weight"] = weights.layers[place.layer].linear(place.linear).weight[place.start : place.stop]
    return named


def _named_others(weights: DecoderWeights) -> dict[str, Tensor]:
    """All but the weights of the layers' linear maps."""
    decoder = weights.name
    named = {f"{decoder}.embed_tokens.weight": weights.embedding, f"{decoder}.norm.weight": weights.final_norm}
    for index, layer in enumerate(weights.layers):
        norms = {
            "input_layernorm": layer.attention_norm,
            "post_attention_layernorm": layer.mlp_norm,
            "self_attn.q_norm": layer.query_norm,
            "self_attn.k_norm": layer.key_norm,
        }
        named |= {f"{decoder}.layers.{index}.{name}.weight": norm for name, norm in norms.items() if norm is not None}
    for name, place in weights.places.items():
        bias = weights.layers[place.layer].linear(place.linear).bias
        if bias is not None:
            named[f"{name}.bias"] = bias[place.start : place.stop]
    if not weights.is_tied:
        named[f"{weights.head_name}.weight"] = weights.head.weight
    if weights.head.bias is not None:
        named[f"{weights.head_name}.bias"] = weights.head.bias
    return named


def _copy(weights: DecoderWeights, products: NativeProducts | None) -> DecoderWeights:
    embedding, head = weights.embedding.clone(), _copy_linear(weights.head)
    return replace(
        weights,
        embedding=embedding,
        layers=tuple(_copy_layer(layer, products) for layer in weights.layers),
        final_norm=weights.final_norm.clone(),
        head=Linear(embedding, head.bias) if weights.is_tied else head,
    )


def _copy_layer(layer: LayerWeights, products: NativeProducts | None) -> LayerWeights:
    return LayerWeights(
        attention_norm=layer.attention_norm.clone(),
        qkv=_copy_linear(layer.qkv, products),
        query_norm=None if layer.query_norm is None else layer.query_norm.clone(),
        key_norm=None if layer.key_norm is None else layer.key_norm.clone(),
        output=_copy_linear(layer.output, products),
        mlp_norm=layer.mlp_norm.clone(),
        gate_up=_copy_linear(layer.gate_up, products),
        down=_copy_linear(layer.down, products),
    )


def _copy_linear(linear: Linear, products: NativeProducts | None = None) -> Linear:
    weight = linear.weight.clone() if products is None else products.pack(linear.weight)
    return Linear(weight, None if linear.bias is None else linear.bias.clone())
