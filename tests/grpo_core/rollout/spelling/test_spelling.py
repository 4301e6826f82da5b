"""What the rules say of a token is what the tokenizer does with its text."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grpo_core.model.tokenizer import Tokenizer, load_tokenizer
from grpo_core.rollout.constraints.line_tokens import LineTokens
from grpo_core.rollout.constraints.regex import compile_regex
from grpo_core.rollout.constraints.token_bytes import TokenBytes, token_bytes_of
from grpo_core.rollout.spelling.spelling import UNKNOWN, YES
from tests.grpo_core.rollout.constraints.real_tokenizers import real_tokenizer, tokenizers_folder

REAL = [pytest.param(name, marks=pytest.mark.slow) for name in ("qwen3", "llama3_1", "gptoss")]
SENTENCE_PIECE = ("llama2", "gemma3")
CHARACTERS = "aé中🎉한Я1' \n.xS!/"


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tokenizers_folder(tmp_path_factory)


@pytest.fixture(params=["tiny", *REAL])
def spelled(request: pytest.FixtureRequest, files: Path) -> Tokenizer:
    return load_tokenizer("tiny") if request.param == "tiny" else real_tokenizer(request.param, files)


def splits(token_bytes: TokenBytes, rng: random.Random, num: int) -> list[tuple[tuple[int, ...], int, bytes]]:
    """Contexts, tokens and endings: places in random texts, and random tokens there."""
    ids = sorted(token_bytes.bytes_of)
    found = []
    while len(found) < num:
        parts = [rng.choice(CHARACTERS) if rng.random() < 0.5 else None for _ in range(rng.randrange(1, 8))]
        content = b"".join(part.encode() if part else token_bytes.bytes_of[rng.choice(ids)] for part in parts)
        line = token_bytes.encode(content.decode(errors="ignore").encode())
        if not line:
            continue
        place = rng.randrange(len(line))
        rest = b"".join(token_bytes.bytes_of[token] for token in line[place:])
        starts = [token for token in ids[:2000] if rest.startswith(token_bytes.bytes_of[token])]
        for token in {line[place], rng.choice(starts or ids)}:
            size = len(token_bytes.bytes_of[token])
            if rest.startswith(token_bytes.bytes_of[token]):
                found.append((line[:place], token, rest[size:]))
    return found


def test_the_rules_say_what_the_tokenizer_does(spelled: Tokenizer) -> None:
    token_bytes = token_bytes_of(spelled)
    spelling = token_bytes.spelling
    assert spelling is not None
    said = {True: 0, False: 0}
    for context, token, ending in splits(token_bytes, random.Random(0), 1500):
        (verdict,) = spelling.verdicts(context, np.array([token], dtype=np.int32), ending)
        if verdict == UNKNOWN:
            continue
        text = b"".join(token_bytes.bytes_of[each] for each in (*context, token)) + ending
        line = tuple(spelled.backend.encode(text.decode(), add_special_tokens=False).ids)
        is_written = line[: len(context) + 1] == (*context, token)
        assert (verdict == YES) == is_written, (context, token_bytes.bytes_of[token], ending)
        said[is_written] += 1
    assert min(said.values()) > 100


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize(
    "pattern", [r"[a-z ]{1,200}\n", r"<think>[^<]{0,40}</think>[0-9]{1,3}\n", r"[xyz_]{1,6}=[0-9]{1,3};\n"]
)
def test_completions_have_the_real_tokenizers_spelling(name: str, pattern: str, files: Path) -> None:
    tokenizer = real_tokenizer(name, files)
    rng = random.Random(1)
    for _ in range(2):
        cursor, ids = compile_regex(pattern, tokenizer).start(), []
        while not cursor.finished and len(ids) < 12:
            ids.append(int(rng.choice(cursor.allowed())))
            cursor.advance(ids[-1])
        if cursor.finished:
            assert tokenizer.encode(tokenizer.decode(ids)).tolist() == ids


@pytest.mark.parametrize("name", REAL)
def test_every_string_of_a_language_can_be_drawn(name: str, files: Path) -> None:
    tokenizer = real_tokenizer(name, files)
    rng = random.Random(2)
    constraint = compile_regex(r"[xyz_]{1,6}=[0-9]{1,3};\n", tokenizer)
    lost = []
    for _ in range(300):
        left = "".join(rng.choice("xyz_") for _ in range(rng.randint(1, 6)))
        text = f"{left}={''.join(rng.choice('0123456789') for _ in range(rng.randint(1, 3)))};\n"
        if not _is_drawn(constraint, tokenizer, text):
            lost.append(text)
    assert lost == []


def _is_drawn(constraint: Any, tokenizer: Tokenizer, text: str) -> bool:
    cursor = constraint.start()
    for token in tokenizer.encode(text).tolist():
        if token not in cursor.allowed():
            return False
        cursor.advance(token)
    return cursor.finished


CHOICES = (("A\n", "B\n"), ("hello\n", "good day\n"), ("x = 1\n",))


@pytest.mark.parametrize(
    "name", [*REAL, *(pytest.param(name, marks=pytest.mark.slow) for name in ("llama2", "gemma3"))]
)
def test_an_answer_of_several_lines_has_the_lines_own_text(name: str, files: Path) -> None:
    """Llama 2's tokenizer puts a blank before whatever it encodes."""
    tokenizer = real_tokenizer(name, files)
    constraint = LineTokens(tokenizer).constraint(CHOICES, False)
    texts = set()
    for choice in range(4):
        cursor, ids = constraint.start(), []
        while not cursor.finished:
            allowed = cursor.allowed()
            ids.append(allowed[choice % len(allowed)])
            cursor.advance(ids[-1])
        texts.add(tokenizer.decode(ids))
        assert tokenizer.encode(tokenizer.decode(ids)).tolist() == ids
    assert texts <= {f"{one}{two}x = 1\n" for one in CHOICES[0] for two in CHOICES[1]}
