"""The files of published weights: PEFT's for an adapter, transformers' for full weights, and their description.

A description is plain JSON: every field but the version and the tensors.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from grpo_core.types import Adapter, FullWeights, PolicyVersion, PolicyWeights

if TYPE_CHECKING:
    from torch import Tensor

ADAPTER_FILE = "adapter_model.safetensors"
MODEL_FILE = "model.safetensors"
PEFT_PREFIX = "base_model.model."  # what PEFT puts before the names of an adapter's modules


def description_of(weights: PolicyWeights) -> dict[str, Any]:
    """The description from which ``described`` restores ``weights``, with the version and the tensors."""
    if isinstance(weights, FullWeights):
        return {
            "method": "full",
            "base_fingerprint": weights.base_fingerprint,
            "architecture": dict(weights.architecture),
        }
    return {
        "base_fingerprint": weights.base_fingerprint,
        "rank": weights.rank,
        "alpha": float(weights.alpha),
        "target_modules": list(weights.target_modules),
    }


def described(version: PolicyVersion, description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> PolicyWeights:
    """The weights that ``description`` describes.

    Raises:
        KeyError, TypeError, ValueError: a field is missing, or has a value that no weights have.
    """
    fingerprint = str(description["base_fingerprint"])
    if description.get("method") == "full":
        return FullWeights(version, fingerprint, dict(description["architecture"]), tensors)
    rank, alpha = int(description["rank"]), float(description["alpha"])
    if rank < 1 or not 0 < alpha < math.inf:
        raise ValueError(f"rank {rank}, alpha {alpha}")
    modules = tuple(str(name) for name in description["target_modules"])
    return Adapter(version, fingerprint, rank, alpha, modules, tensors)


def files_of(weights: PolicyWeights) -> dict[str, bytes]:
    """The files, by name, of a folder that PEFT (``PeftModel.from_pretrained``) or transformers
    (``AutoModelForCausalLM.from_pretrained``) can load."""
    if isinstance(weights, FullWeights):
        return {MODEL_FILE: _safetensors(weights.tensors), "config.json": _json(weights.architecture)}
    for name, tensor in weights.tensors.items():
        assert name.endswith((".lora_A.weight", ".lora_B.weight")), name
        assert not name.startswith(PEFT_PREFIX), name
        assert tensor.shape[0 if name.endswith(".lora_A.weight") else 1] == weights.rank, (name, tensor.shape)
    tensors = {PEFT_PREFIX + name: tensor for name, tensor in weights.tensors.items()}
    return {ADAPTER_FILE: _safetensors(tensors), "adapter_config.json": _json(_peft_config(weights))}


def from_files(version: PolicyVersion, description: Mapping[str, Any], contents: Mapping[str, bytes]) -> PolicyWeights:
    """The reverse of ``files_of``: the weights in ``contents``, on the CPU."""
    import safetensors.torch

    (name,) = (name for name in contents if name.endswith(".safetensors"))
    tensors = safetensors.torch.load(contents[name])
    return described(version, description, {key.removeprefix(PEFT_PREFIX): tensor for key, tensor in tensors.items()})


def _safetensors(tensors: Mapping[str, Tensor]) -> bytes:
    import safetensors.torch

    return safetensors.torch.save({name: _owned(tensor) for name, tensor in tensors.items()}, metadata={"format": "pt"})


def _owned(tensor: Tensor) -> Tensor:
    """``tensor`` on the CPU; a copy if it is a view, because safetensors refuses views of a shared buffer."""
    tensor = tensor.detach().cpu().contiguous()
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()


def _peft_config(adapter: Adapter) -> dict[str, Any]:
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "inference_mode": True,
        "r": adapter.rank,
        "lora_alpha": adapter.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": list(adapter.target_modules),
    }
