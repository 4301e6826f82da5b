"""Whether published weights, an adapter's or full ones, fit a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from grpo_core.errors import AdapterError
from grpo_core.types import Adapter, FullWeights

if TYPE_CHECKING:
    from torch import Tensor

_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"


def check_adapter(
    adapter: Adapter, fingerprint: str, linear_shapes: Mapping[str, tuple[int, int]], *, max_rank: int | None = None
) -> list[str]:
    """The names of the modules that ``adapter`` changes, sorted.

    ``linear_shapes`` are outputs and inputs of the model's linear modules, by name, and ``fingerprint`` is that of its
    base weights. ``max_rank`` is what an engine was started for; None for no limit.

    Raises:
        AdapterError: ``adapter`` was trained on another base model, its rank exceeds ``max_rank``, or it has modules or
            shapes that the model does not have.
    """
    name = adapter.version.name
    if adapter.base_fingerprint != fingerprint:
        raise AdapterError(
            f"adapter {name} was trained on base model {adapter.base_fingerprint}, this one is {fingerprint}; use the "
            "adapter's own model, or publish under another run name"
        )
    if max_rank is not None and adapter.rank > max_rank:
        raise AdapterError(
            f"adapter {name} has rank {adapter.rank}, the engine was started for at most {max_rank}; start it with a "
            "larger max_lora_rank"
        )
    modules = sorted(key.removesuffix(_DOWN) for key in adapter.tensors if key.endswith(_DOWN))
    for module in modules:
        if module not in linear_shapes:
            raise AdapterError(f"adapter {name}: the model has no linear module {module!r}; retrain it")
        shape = (adapter.tensors[module + _UP].shape[0], adapter.tensors[module + _DOWN].shape[1])
        if shape != linear_shapes[module]:
            raise AdapterError(
                f"adapter {name}: {module} has shape {shape}, the model {linear_shapes[module]}; use the adapter's own "
                "model"
            )
    return modules


def check_full_weights(weights: FullWeights, fingerprint: str, tensors: Mapping[str, Tensor]) -> None:
    """``tensors`` are the model's own, by name, and ``fingerprint`` is that of its base weights.

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
