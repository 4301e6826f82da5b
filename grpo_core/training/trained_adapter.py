"""The adapter that is being trained: out of the model for others to use, and back into it."""

from __future__ import annotations

from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict

from grpo_core.config import ModelConfig
from grpo_core.errors import AdapterError
from grpo_core.types import Adapter, PolicyVersion

_PEFT_PREFIX = "base_model.model."


def read_adapter(model: PeftModel, config: ModelConfig, fingerprint: str, version: PolicyVersion) -> Adapter:
    """A copy of ``model``'s adapter as it is now, float32, on the CPU."""
    tensors = {
        name.removeprefix(_PEFT_PREFIX): tensor.detach().float().cpu().clone().contiguous()
        for name, tensor in get_peft_model_state_dict(model).items()
    }
    return Adapter(
        version=version,
        base_fingerprint=fingerprint,
        rank=config.lora_rank,
        alpha=config.lora_alpha,
        target_modules=config.lora_targets,
        tensors=tensors,
    )


def write_adapter(model: PeftModel, adapter: Adapter, mine: Adapter) -> None:
    """Put ``adapter`` in the place of ``mine``, the one that ``model`` has.

    Raises:
        AdapterError: it is for another base model or of another shape.
    """
    shapes = {name: tensor.shape for name, tensor in mine.tensors.items()}
    if adapter.base_fingerprint != mine.base_fingerprint or shapes != {
        name: tensor.shape for name, tensor in adapter.tensors.items()
    }:
        raise AdapterError(
            f"adapter {adapter.version.name} (base {adapter.base_fingerprint}, rank {adapter.rank}) does not fit "
            f"this model (base {mine.base_fingerprint}, rank {mine.rank}); use the one it was trained with"
        )
    set_peft_model_state_dict(model, {f"{_PEFT_PREFIX}{name}": tensor for name, tensor in adapter.tensors.items()})
