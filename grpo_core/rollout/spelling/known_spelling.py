"""Opens the ``Spelling`` of a tokenizer that is known to work like one, and proves it on random texts."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping

import numpy as np
from tokenizers import Tokenizer as Backend

from grpo_core.rollout.spelling.byte_text import whole
from grpo_core.rollout.spelling.spelling import UNKNOWN, YES, Spelling

_NUM_TRIALS, _TRIED_TOKENS = 200, 4
_OTHER_MODELS = ("continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "dropout", "unk_token")


def open_spelling(bytes_of: Mapping[int, bytes], backend: Backend) -> Spelling | None:
    """None for a tokenizer that is not known to work like this: no byte-pair encoding, or one of another kind."""
    content = json.loads(backend.to_str())
    model = content["model"]
    if model["type"] != "BPE" or content["pre_tokenizer"] is None or not model["merges"]:
        return None
    normalizer = content["normalizer"] or {"type": "NFC"}
    if any(model.get(name) for name in _OTHER_MODELS) or normalizer.get("type") != "NFC":
        return None
    spelling = Spelling(bytes_of, backend, model)
    return spelling if spelling.added.are_plain and _agrees(spelling, bytes_of, backend) else None


def _agrees(spelling: Spelling, bytes_of: Mapping[int, bytes], backend: Backend) -> bool:
    """Whether it says what ``backend`` does, of random tokens between random texts."""
    rng = random.Random(0)
    ids = sorted(bytes_of)
    marks = [token for token in ids if len(bytes_of[token]) < 4 and not bytes_of[token].isalnum()] or ids
    for _ in range(_NUM_TRIALS):
        before, after = (
            b"".join(bytes_of[rng.choice(rng.choice((ids, marks)))] for _ in range(num)).decode(errors="ignore")
            for num in (rng.randrange(4), rng.randrange(3))
        )
        context = tuple(backend.encode(before, add_special_tokens=False).ids)
        if b"".join(bytes_of.get(token, b"") for token in context) != before.encode():
            continue
        tokens = np.array([rng.choice(rng.choice((ids, marks))) for _ in range(_TRIED_TOKENS)], dtype=np.int32)
        for token, verdict in zip(tokens.tolist(), spelling.verdicts(context, tokens, after.encode()), strict=True):
            if verdict == UNKNOWN:
                continue
            text = whole(before.encode() + bytes_of[token] + after.encode())
            if text is None:
                continue
            found = backend.encode(text, add_special_tokens=False).ids
            if (found[: len(context) + 1] == [*context, token]) != (verdict == YES):
                return False
    return True
