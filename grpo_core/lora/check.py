"""Whether full weights are for a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from grpo_core.errors import AdapterError
from grpo_core.types import FullWeights

if TYPE_CHECKING:
    from torch import Tensor


def check_full_weights(weights: FullWeights, fingerprint: str, tensors: Mapping[str, Tensor]) -> None:
    """``tensors`` are the model's own, by name, and ``fingerprint`` is that of its base.

    Raises:
        AdapterError: ``weights`` were trained from another base model, or have other names or shapes.
    """
    name = weights.version.name
    if weights.base_fingerprint != fingerprint:
        raise AdapterError(
            f"weights {name} were trained from base model {weights.base_fingerprint}, this one is {fingerprint}; use "
            "their own model, or publish under another run name"
        )
    for key in sorted({*tensors, *weights.tensors}):
        here, there = tensors.get(key), weights.tensors.get(key)
        if here is None or there is None or here.shape != there.shape:
            raise AdapterError(
                f"weights {name}: {key} has {_shape(there)} there and {_shape(here)} in the model; use their own model"
            )


def _shape(tensor: Tensor | None) -> str:
    return "no place" if tensor is None else f"shape {tuple(tensor.shape)}"
