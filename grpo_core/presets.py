"""The embedded models: built on this machine at first use, then read from the cache folder.

No weights are shipped or fetched. A preset is a Qwen2 of the stated size with a byte-level BPE tokenizer, trained for
some seconds on generated text of the environments: it knows the formats, and most of its answers are wrong.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from filelock import FileLock
from tokenizers import ByteLevelBPETokenizer
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from grpo_core.corpus import STOP_TEXT, arithmetic_document, diplomacy_document, sample_documents
from grpo_core.home import make_folder

logger = logging.getLogger("grpo_core.model")


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
    batch_tokens: int = 2048
    vocab_size: int = 2048
    max_context_tokens: int = 4096
    recipe_version: int = 1


PRESETS = {
    "tiny": Preset(256, 4, 4, 2, 896, num_pretraining_steps=40, learning_rate=3e-3),
    "small": Preset(512, 8, 8, 2, 1664, num_pretraining_steps=16, learning_rate=1.5e-3, batch_tokens=1024),
}


def cache_folder() -> Path:
    """``$GRPO_CACHE``, else ``pytest-grpo`` in the user's cache folder."""
    root = os.environ.get("GRPO_CACHE")
    if root:
        return Path(root)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pytest-grpo"


def preset_folder(name: str) -> Path:
    """The folder of preset ``name``, built when it is not there yet. One process builds, others wait for it."""
    preset = PRESETS[name]
    recipe = hashlib.sha256(json.dumps(asdict(preset), sort_keys=True).encode()).hexdigest()[:12]
    folder = make_folder(cache_folder() / "presets") / f"{name}-{recipe}"
    if folder.is_dir():
        return folder
    with FileLock(folder.with_suffix(".lock")):
        if not folder.is_dir():
            logger.info("building preset %s: a tokenizer and a short pretraining, once per machine", name)
            _build(preset, folder)
    return folder


def _build(preset: Preset, folder: Path) -> None:
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        tokenizer = _train_tokenizer(preset)
        model = _pretrain(preset, tokenizer)
        tokenizer.save_pretrained(temporary)
        model.save_pretrained(temporary)
        os.rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _train_tokenizer(preset: Preset) -> PreTrainedTokenizerFast:
    rng = random.Random(0)
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(
        (document for document in sample_documents(rng, num_documents=600)),
        vocab_size=preset.vocab_size,
        min_frequency=2,
        special_tokens=[STOP_TEXT],
        show_progress=False,
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=trained._tokenizer,
        eos_token=STOP_TEXT,
        pad_token=STOP_TEXT,
        model_max_length=preset.max_context_tokens,
        clean_up_tokenization_spaces=False,
    )


def _pretrain(preset: Preset, tokenizer: PreTrainedTokenizerFast) -> Qwen2ForCausalLM:
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
    for input_ids, mask in _training_batches(preset, tokenizer):
        logits = model(input_ids=input_ids, attention_mask=mask).logits[:, :-1]
        targets = input_ids[:, 1:].masked_fill(mask[:, 1:] == 0, -100)
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    model.eval()
    return model


def _training_batches(preset: Preset, tokenizer: PreTrainedTokenizerFast) -> Iterator[tuple[Tensor, Tensor]]:
    """Right-padded batches of about ``batch_tokens`` tokens: three of arithmetic, then one of Diplomacy."""
    rng = random.Random(1)
    assert isinstance(tokenizer.eos_token_id, int)
    for step in range(preset.num_pretraining_steps):
        write = diplomacy_document if step % 4 == 3 else arithmetic_document
        rows: list[list[int]] = []
        num_tokens = 0
        while num_tokens < preset.batch_tokens:
            row = tokenizer.encode(write(rng), add_special_tokens=False)[: preset.max_context_tokens]
            rows.append(row)
            num_tokens += len(row)
        width = max(map(len, rows))
        input_ids = torch.full((len(rows), width), tokenizer.eos_token_id)
        mask = torch.zeros((len(rows), width), dtype=torch.long)
        for index, row in enumerate(rows):
            input_ids[index, : len(row)] = torch.tensor(row)
            mask[index, : len(row)] = 1
        yield input_ids, mask
