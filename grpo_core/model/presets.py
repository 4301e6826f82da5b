"""The embedded models: built on this machine at first use, then read from the cache folder.

No weights are shipped or fetched. A preset is a Qwen2 of the stated size with a byte-level BPE tokenizer, trained for
some seconds on generated text of the environments: it knows the formats, and most of its answers are wrong.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor
from torch.nn import functional as F
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer, TokenizersBackend

from grpo_core.home import cache_folder, make_folder, write_folder
from grpo_core.model.corpus import STOP_TEXT, arithmetic_document, diplomacy_document, sample_documents

_NO_TARGET = -100
_CLEAN_SHARE = 0.6  # of the steps have right answers only
_CORRECT_RATE = 0.25  # of the answers after that

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Preset:
    """Sizes of the network and of its short pretraining. Change one and the cache builds it anew."""

    hidden_size: int
    num_layers: int
    num_heads: int
    num_key_value_heads: int
    intermediate_size: int
    num_pretraining_steps: int
    learning_rate: float
    batch_tokens: int = 400
    vocab_size: int = 2048
    max_context_tokens: int = 4096
    recipe_version: int = 3


PRESETS = {
    "tiny": Preset(256, 4, 4, 2, 896, num_pretraining_steps=200, learning_rate=2e-3),
    "small": Preset(512, 8, 8, 2, 1664, num_pretraining_steps=50, learning_rate=1e-3),
}


def preset_folder(name: str) -> Path:
    """The folder of preset ``name``, built when it is not there yet. One process builds, others wait for it."""
    preset = PRESETS[name]
    recipe = hashlib.sha256(json.dumps(asdict(preset), sort_keys=True).encode()).hexdigest()[:12]
    folder = cache_folder() / "presets" / f"{name}-{recipe}"
    if folder.is_dir():
        return folder
    make_folder(folder.parent, "GRPO_CACHE")
    with FileLock(folder.with_suffix(".lock")):
        if not folder.is_dir():
            logger.info("building preset %s: a tokenizer and a short pretraining, once per machine", name)
            _build(preset, folder)
    return folder


def _build(preset: Preset, folder: Path) -> None:
    with write_folder(folder, 0o777) as written:
        tokenizer = _train_tokenizer(preset)
        model = _pretrain(preset, tokenizer)
        tokenizer.save_pretrained(written)
        model.save_pretrained(written)


def _train_tokenizer(preset: Preset) -> TokenizersBackend:
    """A byte-level BPE with Qwen2's own splitting rules, which is also what its loader puts around the vocabulary."""
    documents = sample_documents(random.Random(0), num_documents=600)
    empty = Qwen2Tokenizer(eos_token=STOP_TEXT, pad_token=STOP_TEXT, model_max_length=preset.max_context_tokens)
    trained = empty.train_new_from_iterator(documents, vocab_size=preset.vocab_size, show_progress=False)
    assert isinstance(trained, TokenizersBackend)
    return trained


def _pretrain(preset: Preset, tokenizer: TokenizersBackend) -> Qwen2ForCausalLM:
    stop_id = tokenizer.eos_token_id
    assert isinstance(stop_id, int)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Qwen2ForCausalLM(
            Qwen2Config(
                vocab_size=preset.vocab_size,
                hidden_size=preset.hidden_size,
                num_hidden_layers=preset.num_layers,
                num_attention_heads=preset.num_heads,
                num_key_value_heads=preset.num_key_value_heads,
                intermediate_size=preset.intermediate_size,
                max_position_embeddings=preset.max_context_tokens,
                tie_word_embeddings=True,
                bos_token_id=None,
                eos_token_id=stop_id,
                pad_token_id=stop_id,
            )
        )
    optimizer = torch.optim.AdamW(model.parameters(), lr=preset.learning_rate, weight_decay=0.01, betas=(0.9, 0.98))
    warmup = max(1, preset.num_pretraining_steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / warmup, 1.0) * (1.0 - 0.9 * step / preset.num_pretraining_steps),
    )
    model.train()
    for input_ids, targets in _training_batches(preset, tokenizer):
        logits = model(input_ids=input_ids).logits[:, :-1]
        loss = F.cross_entropy(logits.flatten(0, 1), targets[:, 1:].flatten(), ignore_index=_NO_TARGET)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    model.eval()
    return model


def _training_batches(preset: Preset, tokenizer: TokenizersBackend) -> Iterator[tuple[Tensor, Tensor]]:
    """Right-padded ids and targets of about ``batch_tokens`` tokens: seven of arithmetic, then one of Diplomacy.

    Only answers are targets. Those of arithmetic are right at first, so that the sum is learned, then mostly wrong, so
    that the policy has something left to gain. Many small batches: at this size the number of updates counts.
    """
    rng = random.Random(1)
    for step in range(preset.num_pretraining_steps):
        correct_rate = 1.0 if step < _CLEAN_SHARE * preset.num_pretraining_steps else _CORRECT_RATE
        rows: list[tuple[list[int], int]] = []
        while sum(len(ids) for ids, _ in rows) < preset.batch_tokens:
            document = diplomacy_document(rng) if step % 8 == 7 else arithmetic_document(rng, correct_rate)
            prompt = tokenizer.encode(document.prompt, add_special_tokens=False)
            rows.append((prompt + tokenizer.encode(document.completion, add_special_tokens=False), len(prompt)))
        width = max(len(ids) for ids, _ in rows)
        input_ids = torch.zeros((len(rows), width), dtype=torch.long)
        targets = torch.full((len(rows), width), _NO_TARGET)
        for index, (ids, num_prompt) in enumerate(rows):
            input_ids[index, : len(ids)] = torch.tensor(ids)
            targets[index, num_prompt : len(ids)] = torch.tensor(ids[num_prompt:])
        yield input_ids, targets
