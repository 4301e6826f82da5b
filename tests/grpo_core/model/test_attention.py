from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from grpo_core.config import ModelConfig
from grpo_core.model.attention import ATTENTION_NAME, forward_hidden
from grpo_core.model.policy import Policy, load_policy

IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11]])
POSITIONS = torch.arange(7)[None]


class RecordingPlan:
    """Causal attention that remembers which layers asked and with what shapes."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, torch.Size, torch.Size]] = []

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, scaling: float) -> Tensor:
        self.calls.append((layer, queries.shape, keys.shape))
        output = F.scaled_dot_product_attention(queries, keys, values, is_causal=True, scale=scaling, enable_gqa=True)
        return output.transpose(1, 2)


class BlindPlan:
    """Lets every token see itself only."""

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, scaling: float) -> Tensor:
        return values.repeat_interleave(queries.shape[1] // keys.shape[1], dim=1).transpose(1, 2)


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3", "llama"])
def test_every_layer_attends_through_the_plan(architecture: str, model_folders: dict[str, Path]) -> None:
    policy = load_policy(ModelConfig(name=str(model_folders[architecture]), device="cpu"))
    plan = RecordingPlan()

    with torch.no_grad():
        hidden = forward_hidden(policy.decoder, IDS, POSITIONS, plan)
        expected = policy.decoder(input_ids=IDS).last_hidden_state  # no plan: transformers' own path

    assert plan.calls == [(layer, (1, 4, 7, 16), (1, 2, 7, 16)) for layer in range(policy.num_layers)]
    assert torch.allclose(hidden, expected, atol=1e-5, rtol=0)


def test_the_plan_decides_what_a_token_sees(policy: Policy) -> None:
    changed = IDS.clone()
    changed[0, 0] = 50

    with torch.no_grad():
        blind = [forward_hidden(policy.decoder, ids, POSITIONS, BlindPlan())[0, -1] for ids in (IDS, changed)]
        causal = [forward_hidden(policy.decoder, ids, POSITIONS, RecordingPlan())[0, -1] for ids in (IDS, changed)]

    assert torch.equal(*blind)
    assert float((causal[0] - causal[1]).abs().max()) > 1e-2


def test_without_a_plan_padding_is_masked_as_in_transformers(policy: Policy, plain_model: nn.Module) -> None:
    padded = torch.cat([torch.zeros(1, 3, dtype=torch.long), IDS], dim=1)
    mask = torch.tensor([[0] * 3 + [1] * 7])

    model: Any = policy.model
    assert model.config._attn_implementation == ATTENTION_NAME

    with torch.no_grad():
        ours = model(input_ids=padded, attention_mask=mask).logits[:, 3:]
        theirs = plain_model(input_ids=padded, attention_mask=mask).logits[:, 3:]

    assert torch.allclose(ours, theirs, atol=1e-5, rtol=0)
