"""The frozen reference (``bench/reference``) with a system's weights and batches, and as an arm of pinned work."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import load_file

from grpo_core.config import TrainingConfig
from grpo_core.model.policy import resolve_device
from grpo_core.model.presets import PRESETS
from grpo_core.model.source import locate_model
from pytest_grpo.systems.protocol import (
    CLIP,
    MAX_GRAD_NORM,
    Completion,
    SystemSettings,
    TrainBatch,
    TrainGroup,
)

from .reference.adamw import AdamW
from .reference.loss import Answer
from .reference.model import Model, Sizes
from .reference.rollout import sample
from .reference.step import train_step

if TYPE_CHECKING:
    from torch import Tensor

    from grpo_core.types import Float32

NUM_REFERENCE_ANSWERS, NUM_PROMPT_TOKENS, NUM_TOKENS = 2, 160, 24
"""The reference arm costs time, too: a part of a batch is enough to know the machine."""


def plain_model(settings: SystemSettings, weights: Mapping[str, Float32], dtype: torch.dtype = torch.float32) -> Model:
    """The model of ``settings`` with the adapter ``weights``, which can be trained."""
    folder, device = Path(locate_model(settings.model)), resolve_device(settings.device)
    config = json.loads((folder / "config.json").read_bytes())
    assert is_written_out(settings.model)
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


def is_written_out(model: str) -> bool:
    """Whether ``bench/reference`` has the architecture of ``model``: that of the presets."""
    return model in PRESETS


def vocab_size(model: str) -> int:
    """The number of rows of the embedding table of a preset, a folder or a hub id."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(locate_model(model)).get_text_config().vocab_size


def plain_answers(batch: TrainBatch, like: Model) -> list[Answer]:
    """One answer per completion of ``batch``, in order. Without reference log-probabilities, the sampler's stand in."""
    some = next(iter(like.adapter.values()))
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


def random_adapter(plain: Model, settings: SystemSettings, seed: int = 0) -> dict[str, Tensor]:
    """Adapter weights for the modules of ``settings.lora_targets``, small and random."""
    draw = torch.Generator().manual_seed(seed)
    adapter: dict[str, Tensor] = {}
    for name, weight in plain.weights.items():
        module = name.removesuffix(".weight")
        if module != name and module.endswith(settings.lora_targets):
            shapes = {"A": (settings.lora_rank, weight.shape[1]), "B": (weight.shape[0], settings.lora_rank)}
            for part, shape in shapes.items():
                values = 0.02 * torch.randn(shape, generator=draw)
                adapter[f"{module}.lora_{part}.weight"] = values.to(weight.device).requires_grad_()
    return adapter


def reference_step() -> Callable[[], None]:
    """The arm ``reference`` of a training step: a pinned one on random answers, whatever run is measured."""
    settings = SystemSettings(home=Path())
    plain = plain_model(settings, {})
    plain = replace(plain, adapter=random_adapter(plain, settings))
    vocab_size = len(plain.weights["model.embed_tokens.weight"])
    ids = np.random.default_rng(0).integers(0, vocab_size, (NUM_REFERENCE_ANSWERS, NUM_PROMPT_TOKENS + NUM_TOKENS))
    completions = [
        Completion(row[NUM_PROMPT_TOKENS:], np.ones(NUM_TOKENS, dtype=bool), np.zeros(NUM_TOKENS, dtype=np.float32))
        for row in ids.astype(np.int32)
    ]
    groups = [
        TrainGroup(row[:NUM_PROMPT_TOKENS].astype(np.int32), (completion,), (1.0,))
        for row, completion in zip(ids, completions, strict=True)
    ]
    answers, optimizer = plain_answers(TrainBatch(tuple(groups)), plain), AdamW()

    def run() -> None:
        train_step(
            plain,
            optimizer,
            answers,
            learning_rate=0.0,
            clip=CLIP,
            kl_coefficient=TrainingConfig().kl_coefficient,
            max_grad_norm=MAX_GRAD_NORM,
        )

    return run


def reference_rollout(group_size: int = 2, num_tokens: int = 8) -> Callable[[], None]:
    """The arm ``reference`` of sampling: plain greedy decoding of a pinned prompt, with a cache, by the base model."""
    plain = plain_model(SystemSettings(home=Path()), {})
    table = plain.weights["model.embed_tokens.weight"]
    drawn = np.random.default_rng(0).integers(0, len(table), NUM_PROMPT_TOKENS)
    ids = torch.from_numpy(drawn).long().to(table.device)

    def run() -> None:
        sample(plain, ids, group_size, num_tokens, None)

    return run
