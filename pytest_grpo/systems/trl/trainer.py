"""TRL's ``GRPOTrainer`` for given settings, and the tensors that it trains and scores.

Legend: B rows, one per completion, P prompt tokens (padded on the left), R completion tokens (padded on the right).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_grpo.systems.protocol import CLIP, MAX_GRAD_NORM, Completion, SystemSettings, TrainBatch

if TYPE_CHECKING:
    from torch import Tensor

    from pytest_grpo.systems.protocol import Float32, Int32


def build_trainer(
    settings: SystemSettings,
    folder: Path,
    *,
    prompts: Sequence[str] = ("unused",),
    reward: Callable[..., list[float]] | None = None,
    callbacks: Sequence[Any] = (),
    options: Mapping[str, Any] | None = None,
) -> Any:
    """A ``GRPOTrainer``, by default for calls of its single parts, never of ``train``.

    Some of TRL's defaults are changed, so that it computes the same as the other systems: float32 instead of bfloat16,
    no gradient checkpointing, the KL term of DAPO, and no logging. ``options`` are more fields of ``GRPOConfig``.

    Raises:
        ModelError: there is no such model, or it has no tokenizer.
    """
    import torch
    from datasets import Dataset  # pyright: ignore[reportMissingImports]
    from peft import LoraConfig
    from transformers import AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer  # pyright: ignore[reportAttributeAccessIssue]

    from grpo_core.model.policy import resolve_device
    from grpo_core.model.source import locate_model
    from grpo_core.model.tokenizer import load_tokenizer

    device = resolve_device(settings.device)
    load_tokenizer(settings.model)  # raises ModelError
    where = locate_model(settings.model)
    lora = LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,  # pyright: ignore[reportArgumentType]  # PEFT takes a float here
        target_modules=list(settings.lora_targets),
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
    )
    values: dict[str, Any] = {
        "output_dir": str(folder),
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": device.type == "cpu",
        "bf16": False,
        "gradient_checkpointing": False,
        "model_init_kwargs": {"dtype": "float32"},
        "seed": settings.seed,
        "per_device_train_batch_size": 2,  # the minimum that TRL accepts; each step chooses its rows per forward pass
        "num_generations": 2,
        "temperature": 1.0,
        "loss_type": "dapo",
        "scale_rewards": "group",
        "epsilon": CLIP,
        "beta": settings.kl_coefficient,
        "use_bias_correction_kl": False,  # the plain k3 estimate, not times the ratio
        "max_grad_norm": MAX_GRAD_NORM,
    }
    config = GRPOConfig(**values | dict(options or {}))
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):  # TRL seeds the whole process
        trainer = GRPOTrainer(
            where,
            reward_funcs=reward or _no_rewards,
            args=config,
            train_dataset=Dataset.from_dict({"prompt": list(prompts)}),
            callbacks=list(callbacks),
            processing_class=AutoTokenizer.from_pretrained(where, padding_side="left"),
            peft_config=lora,
        )
    trainer.current_gradient_accumulation_steps = config.gradient_accumulation_steps  # as ``train`` would set it
    return trainer


def _no_rewards(completions: Sequence[Any], **columns: Any) -> list[float]:
    return [0.0] * len(completions)


def step_tensors(trainer: Any, batch: TrainBatch) -> dict[str, Tensor]:
    """What TRL's ``_generate_and_score_completions`` would return for the completions of ``batch``, in order.

    Raises:
        BatchError: ``ref_logprobs`` are needed and missing.
    """
    import torch

    from grpo_core.errors import BatchError

    completions = batch.completions
    prompts = [group.prompt_ids for group in batch.groups for _ in group.completions]
    mask = _pad_right([item.completion_mask for item in completions]).long()
    tensors = row_tensors(trainer, prompts, completions) | {
        "tool_mask": mask,  # TRL's name for the mask of chosen tokens
        "num_items_in_batch": mask.sum(),
        "advantages": torch.cat([torch.from_numpy(group.advantages) for group in batch.groups]),
        "old_per_token_logps": _pad_right([item.sampling_logprobs for item in completions]),
    }
    if trainer.beta > 0:
        reference = [item.ref_logprobs for item in completions if item.ref_logprobs is not None]
        if len(reference) < len(completions):
            raise BatchError("batch without ref_logprobs, kl_coefficient is above 0; sample it with that setting")
        tensors["ref_per_token_logps"] = _pad_right(reference)
    return {key: value.to(trainer.accelerator.device) for key, value in tensors.items()}


def row_tensors(trainer: Any, prompts: Sequence[Int32], completions: Sequence[Completion]) -> dict[str, Tensor]:
    """Ids and attention masks of prompts [B, P] and completions [B, R]."""
    import numpy as np
    import torch
    from trl.trainer.utils import pad  # pyright: ignore[reportMissingImports]

    pad_id = trainer.processing_class.pad_token_id
    ids = [torch.from_numpy(prompt.astype(np.int64)) for prompt in prompts]
    tensors = {
        "prompt_ids": pad(ids, padding_value=pad_id, padding_side="left"),
        "prompt_mask": pad([torch.ones_like(row) for row in ids], padding_value=0, padding_side="left"),
        "completion_ids": _pad_right([item.completion_ids for item in completions], pad_id).long(),
        "completion_mask": _pad_right([np.ones_like(item.completion_ids) for item in completions]).long(),
    }
    return {key: value.to(trainer.accelerator.device) for key, value in tensors.items()}


def _pad_right(rows: Sequence[Any], value: int = 0) -> Tensor:
    import torch
    from trl.trainer.utils import pad  # pyright: ignore[reportMissingImports]

    return pad([torch.from_numpy(row) for row in rows], padding_value=value, padding_side="right")


def unpad(logprobs: Tensor, completions: Sequence[Completion]) -> tuple[Float32, ...]:
    """The log-probabilities [R] of each completion in ``logprobs`` [B, R], 0 where the token was not chosen."""
    rows = logprobs.float().cpu().numpy()
    return tuple(
        row[: len(completion.completion_ids)] * completion.completion_mask
        for row, completion in zip(rows, completions, strict=True)
    )
