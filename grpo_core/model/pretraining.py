"""The short pretraining of an embedded model, in stages on generated text. Only answers are targets."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Qwen2ForCausalLM, TokenizersBackend

from grpo_core.model.corpus import Document

_NO_TARGET = -100
_WEIGHT_DECAY = 0.01
_BETAS = (0.9, 0.98)
_ONE_THREAD_SIZE = 64
"""Up to this hidden size a second thread costs more than it gains, and on a busy machine many times as much."""


@dataclass(frozen=True, slots=True)
class Stage:
    """``num_steps`` steps, each on the ``documents`` of its number. Many small ones: at this size updates count."""

    num_steps: int
    learning_rate: Callable[[int], float]  # by step
    documents: Callable[[int], Sequence[Document]]  # by step, called in order
    uses_muon: bool = False  # for the matrices of the layers


def pretrain(model: Qwen2ForCausalLM, tokenizer: TokenizersBackend, stages: Sequence[Stage]) -> None:
    """Train all weights of ``model``, with a fresh optimizer for each stage, and leave it in evaluation mode."""
    num_threads = torch.get_num_threads()
    if model.config.hidden_size <= _ONE_THREAD_SIZE:
        torch.set_num_threads(1)
    try:
        _train(model, tokenizer, stages)
    finally:
        torch.set_num_threads(num_threads)


def _train(model: Qwen2ForCausalLM, tokenizer: TokenizersBackend, stages: Sequence[Stage]) -> None:
    encode = functools.cache(functools.partial(ids_of, tokenizer))  # the same few questions come again and again
    model.train()
    for stage in stages:
        optimizers = _optimizers(model, stage)
        for step in range(stage.num_steps):
            for optimizer in optimizers:
                optimizer.param_groups[0]["lr"] = stage.learning_rate(step)
            input_ids, targets = _batch(encode, stage.documents(step))
            logits = model(input_ids=input_ids).logits[:, :-1]
            loss = F.cross_entropy(logits.flatten(0, 1), targets[:, 1:].flatten(), ignore_index=_NO_TARGET)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
    model.eval()


def _optimizers(model: Qwen2ForCausalLM, stage: Stage) -> list[torch.optim.Optimizer]:
    if not stage.uses_muon:
        return [torch.optim.AdamW(model.parameters(), weight_decay=_WEIGHT_DECAY, betas=_BETAS)]
    matrices = [weights for weights in model.model.layers.parameters() if weights.ndim == 2]
    chosen = {id(weights) for weights in matrices}
    others = [weights for weights in model.parameters() if id(weights) not in chosen]
    return [
        torch.optim.Muon(matrices, weight_decay=_WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, weight_decay=_WEIGHT_DECAY, betas=_BETAS),
    ]


def _batch(encode: Callable[[str], list[int]], documents: Sequence[Document]) -> tuple[Tensor, Tensor]:
    """Right-padded ids and targets."""
    rows = [(encode(each.prompt), encode(each.completion)) for each in documents]
    width = max(len(prompt) + len(completion) for prompt, completion in rows)
    input_ids = torch.zeros((len(rows), width), dtype=torch.long)
    targets = torch.full((len(rows), width), _NO_TARGET)
    for index, (prompt, completion) in enumerate(rows):
        end = len(prompt) + len(completion)
        input_ids[index, :end] = torch.tensor(prompt + completion)
        targets[index, len(prompt) : end] = torch.tensor(completion)
    return input_ids, targets


def ids_of(tokenizer: TokenizersBackend, text: str) -> list[int]:
    """The token ids of a part of a document."""
    return tokenizer.encode(text, add_special_tokens=False)
