"""The frozen reference (``bench/reference``) with a system's weights and batches."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file

from grpo_core.model.policy import resolve_device
from grpo_core.model.source import locate_model
from pytest_grpo.systems.protocol import CLIP, MAX_GRAD_NORM, GrpoSystem, SystemSettings, TrainBatch

from .reference.adamw import AdamW
from .reference.loss import Answer
from .reference.model import Model, Sizes
from .reference.rollout import sample
from .reference.step import train_step

if TYPE_CHECKING:
    from grpo_core.types import Float32, Int32

NUM_REFERENCE_ANSWERS = 2
"""The reference arm costs time, too: a part of a batch is enough to know the machine."""


def plain_model(settings: SystemSettings, weights: Mapping[str, Float32], dtype: torch.dtype = torch.float32) -> Model:
    """The model of ``settings`` with the adapter ``weights``, which can be trained."""
    folder, device = Path(locate_model(settings.model)), resolve_device(settings.device)
    config = json.loads((folder / "config.json").read_bytes())
    assert (config["model_type"], config["tie_word_embeddings"]) == ("qwen2", True), "it is written out for presets"
    return Model(
        sizes=Sizes(
            num_layers=config["num_hidden_layers"],
            num_heads=config["num_attention_heads"],
            num_key_heads=config["num_key_value_heads"],
            rope_theta=config["rope_parameters"]["rope_theta"],
            norm_epsilon=config["rms_norm_eps"],
        ),
        weights={name: tensor.to(device, dtype) for name, tensor in load_file(folder / "model.safetensors").items()},
        adapter={
            name: torch.from_numpy(values).to(device, dtype, copy=True).requires_grad_()
            for name, values in weights.items()
        },
        scaling=settings.lora_alpha / settings.lora_rank,
    )


def plain_answers(batch: TrainBatch, like: Model) -> list[Answer]:
    """One answer per completion of ``batch``, in order. Without reference log-probabilities, the sampler's stand in."""
    some = like.weights["model.embed_tokens.weight"]
    return [
        Answer(
            prompt_ids=torch.from_numpy(group.prompt_ids).long().to(some.device),
            ids=torch.from_numpy(completion.completion_ids).long().to(some.device),
            is_chosen=torch.from_numpy(completion.completion_mask).to(some.device),
            sampling_logprobs=torch.from_numpy(completion.sampling_logprobs).to(some),
            ref_logprobs=torch.from_numpy(
                completion.ref_logprobs if completion.ref_logprobs is not None else completion.sampling_logprobs
            ).to(some),
            advantage=float(advantage),
        )
        for group in batch.groups
        for completion, advantage in zip(group.completions, group.advantages, strict=True)
    ]


def reference_step(settings: SystemSettings, system: GrpoSystem, batch: TrainBatch) -> Callable[[], None]:
    """The arm ``reference`` of a training step: the plain one, on the first completions of ``batch``."""
    plain, optimizer = plain_model(settings, system.weights()), AdamW()
    answers = plain_answers(batch, plain)[:NUM_REFERENCE_ANSWERS]

    def run() -> None:
        train_step(
            plain,
            optimizer,
            answers,
            learning_rate=0.0,
            clip=CLIP,
            kl_coefficient=settings.kl_coefficient,
            max_grad_norm=MAX_GRAD_NORM,
        )

    return run


def reference_rollout(
    settings: SystemSettings, prompt_ids: Int32, group_size: int = 2, num_tokens: int = 8
) -> Callable[[], None]:
    """The arm ``reference`` of sampling: plain greedy decoding of one prompt, with a cache, by the base model."""
    plain = plain_model(settings, {})
    ids = torch.from_numpy(prompt_ids).long().to(plain.weights["model.embed_tokens.weight"].device)

    def run() -> None:
        sample(plain, ids, group_size, num_tokens, None)

    return run
