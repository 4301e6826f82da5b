"""Synthetic prompts and answers of the environments: the training text of the presets."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from grpo_core.environments.arithmetic import answer, question
from grpo_core.environments.diplomacy.prompts import compact_prompt, full_prompt
from grpo_core.environments.diplomacy.synthetic import sample_position

STOP_TEXT = "<|endoftext|>"


@dataclass(frozen=True, slots=True)
class Document:
    """A prompt and an answer in its format, which ends with ``STOP_TEXT``."""

    prompt: str
    completion: str


def arithmetic_document(rng: random.Random, correct_rate: float) -> Document:
    """A question with an answer that is right at ``correct_rate`` and one or two off otherwise."""
    largest = rng.choices((4, 9, 99), weights=(7, 2, 1))[0]
    left, right = rng.randint(0, largest), rng.randint(0, largest)
    error = 0 if rng.random() < correct_rate else rng.choice((-2, -1, 1, 2))
    return Document(question(left, right), answer(left, max(right + error, -left)) + STOP_TEXT)


def sum_document(rng: random.Random, max_operand: int, correct_rate: float) -> Document:
    """A question with an answer that is right at ``correct_rate`` and the first number again otherwise."""
    left, right = rng.randint(0, max_operand), rng.randint(0, max_operand)
    added = right if rng.random() < correct_rate else 0
    return Document(question(left, right), answer(left, added) + STOP_TEXT)


def diplomacy_document(rng: random.Random) -> Document:
    """A position with one legal-looking order per unit."""
    position, power, choices = sample_position(rng)
    prompt = compact_prompt if rng.random() < 0.8 else full_prompt
    orders = "".join(rng.choice(lines) for lines in choices)
    return Document(prompt(position, power, choices), orders + STOP_TEXT)


def sample_sums(rng: random.Random, num_documents: int, max_operand: int) -> Iterator[str]:
    """Questions with right answers, as plain text."""
    for _ in range(num_documents):
        document = sum_document(rng, max_operand, 1.0)
        yield document.prompt + document.completion


def sample_documents(rng: random.Random, num_documents: int) -> Iterator[str]:
    """Half arithmetic, half Diplomacy, as plain text."""
    for index in range(num_documents):
        document = arithmetic_document(rng, 1.0) if index % 2 else diplomacy_document(rng)
        yield document.prompt + document.completion
