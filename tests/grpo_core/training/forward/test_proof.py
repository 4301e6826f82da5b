"""A layout is taken only where it is proved on random ids to be exact; else the next one, or one line."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from grpo_core.config import ModelConfig, TrainingConfig
from grpo_core.errors import ModelError
from grpo_core.model.policy import Policy, load_policy
from grpo_core.training.forward.packing import build_packed_batch, pack_completions, score_chosen
from grpo_core.training.forward.proof import prove_packing
from grpo_core.training.trainer import Trainer
from grpo_core.types import Completion, Packing
from tests.grpo_core.model.broken_models import one_line
from tests.grpo_core.small_models import save_small_model

MakeCompletion = Callable[..., Completion]
PlainLogprobs = Callable[[Any, Completion], Tensor]

PROVED: dict[str, tuple[Packing, dict[str, Any]]] = {
    "nemotron": ("padded", {}),  # its layers pass on neither a plan nor positions
    "mistral": ("shared_prefix", {"sliding_window": None}),
    "olmoe": ("shared_prefix", {"num_experts": 4, "num_experts_per_tok": 2, "clip_qkv": 0.3}),
    "llama4_text": ("packed", {"intermediate_size_mlp": 96, "num_local_experts": 4}),
    "gpt2": ("padded", {"n_embd": 64, "n_layer": 2, "n_head": 4}),
}


@pytest.fixture(params=PROVED)
def proved(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Policy, Packing]:
    packing, settings = PROVED[request.param]
    save_small_model(request.param, tmp_path, **settings)
    return load_policy(ModelConfig(name=str(tmp_path), device="cpu"), any_architecture=True), packing


def test_the_proved_layout_scores_as_transformers_does(
    proved: tuple[Policy, Packing], make_completion: MakeCompletion, plain_logprobs: PlainLogprobs
) -> None:
    policy, packing = proved
    rng = np.random.default_rng(0)
    shared = rng.integers(1, 320, 23, dtype=np.int32)
    completions = [make_completion(rng, shared, size) for size in (5, 9, 3)]

    assert prove_packing(policy, "shared_prefix") == packing

    batch = build_packed_batch(pack_completions(completions, packing), completions, packing, policy.device)
    with torch.no_grad():
        found = score_chosen(policy.decoder, policy.head, batch).logprobs
        for member in batch.order:
            expected = plain_logprobs(policy.model, completions[member])
            torch.testing.assert_close(found[batch.members == member], expected, atol=2e-5, rtol=0)


def test_a_trainer_takes_the_proved_layout_and_says_why(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_small_model("nemotron", tmp_path)
    model = ModelConfig(name=str(tmp_path), device="cpu", lora_targets=("q_proj",))
    with caplog.at_level(logging.WARNING):
        trainer = Trainer(load_policy(model, any_architecture=True), model, TrainingConfig(), run="run")

    assert trainer.packing == "padded"
    assert "(nemotron): not trained in layout 'shared_prefix': log-probabilities are" in caplog.text


class _SeesWhatFollows(nn.Module):
    """A decoder in which every token sees the whole row."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder, self.config = decoder, decoder.config

    def forward(self, **inputs: Any) -> Any:
        output = self.decoder(**inputs)
        output.last_hidden_state = output.last_hidden_state + output.last_hidden_state.mean(dim=1, keepdim=True)
        return output


class _Raises(nn.Module):
    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.config = decoder.config

    def forward(self, **inputs: Any) -> Any:
        raise KeyError("no such\ncolumn")


@pytest.mark.parametrize(
    ("kind", "reason"), [(_SeesWhatFollows, "log-probabilities are off by"), (_Raises, "it raises KeyError")]
)
def test_a_model_without_an_exact_layout_is_refused(kind: type, reason: str, policy: Policy) -> None:
    broken = replace(policy, decoder=kind(policy.decoder))

    with pytest.raises(ModelError, match=rf"'qwen2' cannot be trained.*{reason}") as error:
        prove_packing(broken, "shared_prefix")
    one_line(error)


def test_a_model_that_hands_an_adapter_no_gradient_is_refused_before_the_first_step(tmp_path: Path) -> None:
    """Reformer's layers are a function with a backward pass of its own, of inputs that the adapter does not change."""
    axes = {"axial_pos_shape": [16, 16], "axial_pos_embds_dim": [32, 32]}
    save_small_model("reformer", tmp_path, is_decoder=True, attention_head_size=16, feed_forward_size=96, **axes)
    model = ModelConfig(name=str(tmp_path), device="cpu", lora_targets=("query_key",))

    with pytest.raises(ModelError, match=r"'reformer' cannot be trained like this: no gradient reaches") as error:
        Trainer(load_policy(model, any_architecture=True), model, TrainingConfig(), run="run")
    one_line(error)

    full = TrainingConfig(method="full")
    assert Trainer(load_policy(model, any_architecture=True), model, full, run="run").packing == "padded"


def test_logits_that_are_not_the_heads_are_refused(policy: Policy) -> None:
    """As a soft cap under a name that nobody knows yet."""
    policy.model.register_forward_hook(lambda module, inputs, output: setattr(output, "logits", output.logits.tanh()))

    with pytest.raises(ModelError, match="logits are its head's"):
        prove_packing(policy, "shared_prefix")


def test_weights_without_numbers_prove_nothing(policy: Policy) -> None:
    with torch.no_grad():
        next(policy.model.parameters()).fill_(float("nan"))

    assert prove_packing(policy, "shared_prefix") == "shared_prefix"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rounding_is_no_difference(dtype: str, model_folders: dict[str, Path]) -> None:
    for folder in model_folders.values():
        policy = load_policy(ModelConfig(name=str(folder), device="cpu", dtype=dtype))  # pyright: ignore[reportArgumentType]
        assert prove_packing(policy, "shared_prefix") == "shared_prefix"
