"""The embedded models: built on this machine at first use, then read from the cache folder.

No weights are shipped or fetched. A preset is a Qwen2 of the stated size with a byte-level BPE tokenizer, trained for
some seconds on generated text of the environments: it knows the formats, and most of its answers are wrong. ``tiny``
and ``small`` know both environments and hardly any sum. ``adder`` can add, and does
nothing else, but mostly just repeats the first number: this is what a run of ``grpo train`` corrects.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from filelock import FileLock
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer, TokenizersBackend

from grpo_core.home import cache_folder, make_folder, write_folder
from grpo_core.model.corpus import (
    STOP_TEXT,
    Document,
    arithmetic_document,
    diplomacy_document,
    sample_documents,
    sample_sums,
    sum_document,
)
from grpo_core.model.pretraining import Stage, ids_of, pretrain

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


@dataclass(frozen=True, slots=True)
class SumsPreset(Preset):
    """Pretrained on sums of two numbers up to ``max_operand``, with Muon: it needs half of AdamW's steps."""

    max_operand: int = 14
    batch_documents: int = 128
    num_repeating_steps: int = 70  # after the others; the first number is repeated in most answers
    repeating_rate: float = 1e-3
    correct_rate: float = 0.2  # of these answers


PRESETS = {
    "tiny": Preset(256, 4, 4, 2, 896, num_pretraining_steps=200, learning_rate=2e-3),
    "small": Preset(512, 8, 8, 2, 1664, num_pretraining_steps=50, learning_rate=1e-3),
    "adder": SumsPreset(
        64, 2, 4, 4, 256, num_pretraining_steps=210, learning_rate=1.5e-2, vocab_size=320, max_context_tokens=256
    ),
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
    rng = random.Random(0)
    if isinstance(preset, SumsPreset):
        documents = sample_sums(rng, 600, preset.max_operand)
    else:
        documents = sample_documents(rng, 600)
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
    stages = _sum_stages(preset) if isinstance(preset, SumsPreset) else [_stage(preset, tokenizer)]
    pretrain(model, tokenizer, stages)
    return model


def _stage(preset: Preset, tokenizer: TokenizersBackend) -> Stage:
    """Documents of about ``batch_tokens`` tokens a step: seven steps of arithmetic, then one of Diplomacy.

    Answers of arithmetic are right at first, then mostly wrong, so that the policy has something left to gain.
    """
    rng, num_steps = random.Random(1), preset.num_pretraining_steps

    def documents(step: int) -> list[Document]:
        correct_rate = 1.0 if step < _CLEAN_SHARE * num_steps else _CORRECT_RATE
        found, num_tokens = [], 0
        while num_tokens < preset.batch_tokens:
            found.append(diplomacy_document(rng) if step % 8 == 7 else arithmetic_document(rng, correct_rate))
            num_tokens += sum(len(ids_of(tokenizer, text)) for text in (found[-1].prompt, found[-1].completion))
        return found

    return Stage(num_steps, lambda step: preset.learning_rate * _share(step, num_steps, last=0.1), documents)


def _sum_stages(preset: SumsPreset) -> list[Stage]:
    """First to add, with right answers only. Then, at a rate that leaves the sums as they are, to do so seldom."""
    rng, num_steps = random.Random(1), preset.num_pretraining_steps

    def documents(correct_rate: float) -> list[Document]:
        return [sum_document(rng, preset.max_operand, correct_rate) for _ in range(preset.batch_documents)]

    return [
        Stage(
            num_steps,
            lambda step: preset.learning_rate * _share(step, num_steps, last=0.05),
            lambda step: documents(1.0),
            uses_muon=True,
        ),
        Stage(
            preset.num_repeating_steps,
            lambda step: preset.repeating_rate,
            lambda step: documents(preset.correct_rate),
            uses_muon=True,
        ),
    ]


def _share(step: int, num_steps: int, *, last: float) -> float:
    """The share of the learning rate: it rises over a tenth of the steps, and falls to ``last`` over all of them."""
    return min((step + 1) / max(1, num_steps // 10), 1.0) * (1.0 - (1.0 - last) * step / num_steps)
