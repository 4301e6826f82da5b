"""Generated text that looks like the environments' prompts and answers: what the presets are made from."""

from __future__ import annotations

import random
from collections.abc import Iterator

from grpo_core.environments.arithmetic import answer, question
from grpo_core.environments.diplomacy.prompts import compact_prompt, full_prompt
from grpo_core.environments.diplomacy.synthetic import sample_position

STOP_TEXT = "<|endoftext|>"
CORRECT_ANSWER_RATE = 0.25


def arithmetic_document(rng: random.Random) -> str:
    """A question with an answer that is right one time in four, so that a policy has something left to learn."""
    largest = rng.choices((4, 9, 99), weights=(7, 2, 1))[0]
    left, right = rng.randint(0, largest), rng.randint(0, largest)
    if rng.random() < CORRECT_ANSWER_RATE:
        written = answer(left, right)
    else:
        written = f" {rng.randint(0, 2 * largest)}"
    return question(left, right) + written + STOP_TEXT


def diplomacy_document(rng: random.Random) -> str:
    """A position with one legal-looking order per unit."""
    position, power, choices = sample_position(rng)
    prompt = compact_prompt if rng.random() < 0.8 else full_prompt
    orders = "".join(rng.choice(lines) for lines in choices)
    return prompt(position, power, choices) + orders + STOP_TEXT


def sample_documents(rng: random.Random, num_documents: int) -> Iterator[str]:
    """Half arithmetic, half Diplomacy."""
    for index in range(num_documents):
        yield arithmetic_document(rng) if index % 2 else diplomacy_document(rng)
