"""Any model of ``transformers`` as a decoder that can be trained: the adapter is added to the weights by hand.

Legend: B rows, T tokens of a row, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.func import functional_call

from grpo_core.model.policy import resolve_device
from grpo_core.model.source import locate_model

if TYPE_CHECKING:
    from grpo_core.types import Float32
    from pytest_grpo.systems.protocol import SystemSettings

DOWN, UP = ".lora_A.weight", ".lora_B.weight"


@dataclass(frozen=True)
class AnyModel:
    """A ``module`` of ``transformers``, and the weights that are trained: an adapter's, or weights of its own."""

    module: nn.Module
    adapter: Mapping[str, Tensor]
    scaling: float

    def hidden(self, ids: Tensor) -> Tensor:
        """The logits [B, T, V] of ``ids`` [B, T]."""
        return functional_call(self.module, self._weights(), kwargs={"input_ids": ids, "use_cache": False}).logits

    def logits(self, hidden: Tensor) -> Tensor:
        return hidden

    def _weights(self) -> dict[str, Tensor]:
        """W + scaling B A of each module with an adapter (Hu et al. 2021, eq. 3), and the weights that stand alone."""
        base = dict(self.module.named_parameters())
        weights: dict[str, Tensor] = {}
        for name, value in self.adapter.items():
            module = name.removesuffix(DOWN)
            if module != name:
                update = self.adapter[f"{module}{UP}"] @ value
                weights[f"{module}.weight"] = base[f"{module}.weight"] + self.scaling * update
            elif not name.endswith(UP):
                weights[name] = value
        return weights


def load_any(settings: SystemSettings, weights: Mapping[str, Float32], dtype: torch.dtype) -> AnyModel:
    """The model of ``settings`` with ``weights``, as ``GrpoSystem.weights`` gives them."""
    from transformers import AutoModelForCausalLM

    device = resolve_device(settings.device)
    module = AutoModelForCausalLM.from_pretrained(
        locate_model(settings.model), dtype=dtype, attn_implementation="eager"
    )
    module.eval().requires_grad_(False)
    nn.Module.to(module, device)
    adapter = {
        name: torch.from_numpy(values).to(device, dtype, copy=True).requires_grad_() for name, values in weights.items()
    }
    return AnyModel(module, adapter, settings.lora_alpha / settings.lora_rank)
