"""Each fast part computes what the part does that it replaces, and has its gradients."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig, Qwen2Config, Qwen3Config
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2MLP, Qwen2RMSNorm, apply_rotary_pos_emb
from transformers.models.qwen3.modeling_qwen3 import Qwen3MLP, Qwen3RMSNorm

from grpo_core.training.forward.layers import mlp
from grpo_core.training.forward.layers.replace import use_fast_parts
from grpo_core.training.forward.layers.rotary import rotate

EXACT = [(torch.float64, 1e-12), (torch.float32, 1e-5)]


def randomised(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, dtype=dtype) * 0.3 + 0.1
    return module.to(dtype)


def output_and_gradients(module: Callable[[Tensor], Tensor], x: Tensor, trained: list[Tensor]) -> list[Tensor]:
    x = x.clone().requires_grad_()
    output = module(x)
    weights = torch.randn(output.shape, dtype=output.dtype, generator=torch.Generator().manual_seed(1))
    return [output.detach(), *torch.autograd.grad((output * weights).sum(), [x, *trained])]


def fast_part(part: nn.Module, dtype: torch.dtype) -> tuple[nn.Module, nn.Module]:
    """``part`` with random frozen weights, and what takes its place."""
    plain = randomised(part, dtype).requires_grad_(False)
    fast = deepcopy(plain)
    use_fast_parts(fast)
    assert type(fast) is not type(plain)
    assert isinstance(fast, type(plain))
    return plain, fast


def exact(part: nn.Module) -> Callable[[Tensor], Tensor]:
    """``part``, but for norms, which round to float32 in ``transformers``, torch's own."""
    if isinstance(part, LlamaRMSNorm | Qwen2RMSNorm | Qwen3RMSNorm):
        return lambda x: F.rms_norm(x, (x.shape[-1],), part.weight, part.variance_epsilon)
    return part


PARTS = [
    lambda: LlamaRMSNorm(16),
    lambda: Qwen2RMSNorm(16),
    lambda: Qwen3RMSNorm(16),
    lambda: LlamaMLP(LlamaConfig(hidden_size=16, intermediate_size=24, num_attention_heads=4)),
    lambda: Qwen2MLP(Qwen2Config(hidden_size=16, intermediate_size=24)),
    lambda: Qwen3MLP(Qwen3Config(hidden_size=16, intermediate_size=24)),
]


@pytest.mark.parametrize(("dtype", "tolerance"), EXACT)
@pytest.mark.parametrize("build", PARTS)
def test_a_frozen_part_is_the_plain_one(
    build: Callable[[], nn.Module], dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlp, "PART_ROWS", 8)  # three parts, the last of them shorter
    plain, fast = fast_part(build(), dtype)
    x = torch.randn(2, 11, 16, dtype=dtype, generator=torch.Generator().manual_seed(2))

    expected, found = (output_and_gradients(module, x, []) for module in (exact(plain), fast))
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(other, one, atol=tolerance, rtol=tolerance)
    assert not torch.equal(expected[1], torch.zeros_like(expected[1]))
    with torch.no_grad():
        assert torch.equal(fast(x), found[0])


@pytest.mark.parametrize("build", PARTS)
def test_a_part_that_is_trained_has_the_gradients_of_its_weights(build: Callable[[], nn.Module]) -> None:
    plain, fast = (module.requires_grad_(True) for module in fast_part(build(), torch.float64))
    x = torch.randn(5, 16, dtype=torch.float64)

    expected, found = (output_and_gradients(module, x, list(module.parameters())) for module in (plain, fast))
    for one, other in zip(expected, found, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("build", PARTS)
def test_a_part_follows_autocast(build: Callable[[], nn.Module]) -> None:
    plain, fast = fast_part(build(), torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(plain(torch.ones(3, 16)), fast(torch.ones(3, 16)))


@pytest.mark.parametrize(("dtype", "tolerance"), EXACT)
@pytest.mark.parametrize("has_bias", [False, True])
def test_an_adapter_on_a_frozen_map_is_peft_s(has_bias: bool, dtype: torch.dtype, tolerance: float) -> None:
    model = nn.Sequential(nn.Linear(16, 24, bias=has_bias)).requires_grad_(False)
    plain = get_peft_model(model, LoraConfig(r=3, lora_alpha=5, target_modules=["0"]))  # pyright: ignore[reportArgumentType]
    randomised(plain, dtype)
    fast = deepcopy(plain)
    use_fast_parts(fast)
    x = torch.randn(2, 7, 16, dtype=dtype, generator=torch.Generator().manual_seed(2))

    both = []
    for adapted in (plain, fast):
        trained: list[Tensor] = [value for value in adapted.parameters() if value.requires_grad]
        assert len(trained) == 2
        both.append(output_and_gradients(adapted, x, trained))
    for one, other in zip(*both, strict=True):
        torch.testing.assert_close(other, one, atol=tolerance, rtol=tolerance)


def test_the_rotation_is_that_of_transformers() -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(1, 9, 4, 8, dtype=torch.float64, generator=generator)
    angles = torch.randn(1, 9, 4, dtype=torch.float64, generator=generator)
    cosine, sine = (torch.cat([part, part], dim=-1) for part in (angles.cos(), angles.sin()))

    expected, found = (
        output_and_gradients(turn, x, [])
        for turn in (
            lambda x: apply_rotary_pos_emb(x, x, cosine, sine, unsqueeze_dim=2)[0],
            lambda x: rotate(x, cosine, sine),
        )
    )
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-14, rtol=0)
