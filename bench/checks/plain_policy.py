"""The policy by ``transformers`` alone: one sequence at a time, the adapter added to the weights by hand.

Legend: P prompt tokens, R completion tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call
from transformers import AutoModelForCausalLM

from grpo_core.model.source import locate_model

if TYPE_CHECKING:
    from grpo_core.types import Float32, Int32

_DOWN = ".lora_A.weight"


class PlainPolicy:
    """The base model ``name``. No code of this project runs in its forward pass."""

    def __init__(self, name: str, *, scaling: float) -> None:
        """``scaling`` is alpha over rank of the adapters."""
        self._model = AutoModelForCausalLM.from_pretrained(
            locate_model(name), dtype=torch.float32, attn_implementation="eager"
        ).eval()
        self._scaling = scaling

    def merged(self, adapter: Mapping[str, Float32]) -> dict[str, Tensor]:
        """The weights that ``adapter`` changes, as W + scaling B A (Hu et al. 2021, eq. 3), by name. Without any module
        of that form they are whole weights, and stand as they are."""
        parameters = dict(self._model.named_parameters())
        weights: dict[str, Tensor] = {}
        for module in (name.removesuffix(_DOWN) for name in adapter if name.endswith(_DOWN)):
            down, up = (torch.from_numpy(adapter[f"{module}.lora_{part}.weight"]).float() for part in "AB")
            weights[f"{module}.weight"] = parameters[f"{module}.weight"].detach() + self._scaling * (up @ down)
        return weights or {name: torch.from_numpy(values).float() for name, values in adapter.items()}

    @torch.inference_mode()
    def logits(self, prompt_ids: Int32, completion_ids: Int32, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """[R, V] in float64: what each token is drawn from, with ``weights`` in place of the base model's."""
        ids = torch.from_numpy(np.concatenate([prompt_ids, completion_ids]).astype(np.int64))[None]
        output = functional_call(self._model, dict(weights or {}), kwargs={"input_ids": ids, "use_cache": False})
        return output.logits[0, len(prompt_ids) - 1 : -1].double()

    def logprobs(
        self, prompt_ids: Int32, completion_ids: Int32, weights: Mapping[str, Tensor] | None = None
    ) -> Float32:
        """[R], at temperature 1 over the whole vocabulary."""
        scores = self.logits(prompt_ids, completion_ids, weights).log_softmax(dim=-1)
        chosen = torch.from_numpy(completion_ids.astype(np.int64))[:, None]
        return scores.gather(1, chosen)[:, 0].float().numpy()
