"""Whether a model fits into the memory, from its configuration alone: before any weight is read."""

from __future__ import annotations

import psutil
import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedConfig

from grpo_core.errors import ModelError
from grpo_core.model.source import unloadable

GIB = 1 << 30


def num_parameters(name: str, config: PreTrainedConfig) -> int:
    """The parameters of the model ``name``, shared ones once.

    Raises:
        ModelError: transformers cannot build a model of ``config``.
    """
    try:
        with torch.device("meta"):
            built: nn.Module = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except Exception as error:  # of a configuration that contradicts itself transformers raises a dozen kinds
        raise unloadable(name, error) from error
    return sum(parameter.numel() for parameter in built.parameters())


def check_memory(name: str, config: PreTrainedConfig, dtype: torch.dtype, device: torch.device) -> None:
    """Raises ModelError when not even one copy of the weights fits, on the way to ``device`` or there."""
    num_weights = num_parameters(name, config)
    num_bytes = num_weights * dtype.itemsize
    for place in dict.fromkeys(("cpu", device.type)):  # they are loaded through the memory of the CPU
        free_bytes = psutil.virtual_memory().available if place == "cpu" else torch.cuda.mem_get_info(device)[0]
        if num_bytes > free_bytes:
            raise ModelError(
                f"model {name!r}: {num_weights / 1e9:.3g} billion weights take {num_bytes / GIB:.3g} GiB in "
                f"{str(dtype).removeprefix('torch.')}, and {free_bytes / GIB:.3g} GiB are free on the {place}; take a "
                "smaller model, or a machine with more memory"
            )
