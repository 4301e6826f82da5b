"""Counts are the larger of what a system tells and what is seen, and say so where nothing is seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from pytest_grpo.systems.counting.call_counter import CallCounter
from pytest_grpo.systems.counting.count import AS_TOLD, Count
from pytest_grpo.systems.load import load_system
from pytest_grpo.systems.protocol import GrpoSystem, TrainBatch

if TYPE_CHECKING:
    from tests.pytest_grpo.systems.conftest import MakeBatch, MakeSettings


class Silent(GrpoSystem):
    """It shows nothing."""

    name = "silent"


class Embedder(Silent):
    """Each call is one pass of two tokens and one of its tokenizer."""

    def __init__(self) -> None:
        self.decoder = nn.Embedding(5, 2)
        self.tokenizer = self

    def compute(self) -> None:
        self.encode_letters()
        with torch.no_grad():
            self.decoder(torch.tensor([0, 1]))

    def encode_letters(self) -> None:
        """It turns text into ids, by its name."""

    def decoders(self) -> Sequence[nn.Module]:
        return (self.decoder,)

    def tokenizers(self) -> Sequence[object]:
        return (self.tokenizer,)


def test_what_is_seen_is_more_than_what_is_told() -> None:
    system = Embedder()
    with CallCounter(system) as counter:
        system.compute()
        system.compute()
    assert counter.forward_passes(told=1) == Count(2)
    assert counter.gradient_passes(told=0) == Count(0)
    assert counter.model_tokens(told=3) == Count(4)
    assert counter.tokenizer_calls(told=0) == Count(2)


def test_what_is_told_is_more_than_what_is_seen() -> None:
    system = Embedder()
    with CallCounter(system) as counter:
        system.compute()
    assert counter.forward_passes(told=3) == Count(3)


def test_a_system_that_shows_nothing_is_believed_and_it_is_said() -> None:
    with CallCounter(Silent(), vocab_size=5) as counter:
        pass
    assert counter.forward_passes(told=1) == Count(1, AS_TOLD)
    assert counter.model_tokens(told=7) == Count(7, AS_TOLD)
    assert counter.tokenizer_calls(told=0) == Count(0, AS_TOLD)


@pytest.mark.parametrize("packing", ["shared_prefix", "padded"])
def test_a_step_of_grpo_core_is_counted_as_it_tells(
    make_settings: MakeSettings, make_batch: MakeBatch, packing: str
) -> None:
    system = load_system("grpo_core", make_settings(packing=packing))
    batch: TrainBatch = make_batch(system)
    with CallCounter(system) as counter:
        step = system.train_step(batch)
    assert (
        counter.forward_passes(told=0) == counter.gradient_passes(told=0) == Count(step.num_forward_passes) == Count(1)
    )
    assert counter.tokenizer_calls(told=0) == Count(0)
    padded = len(batch.completions) * max(
        len(group.prompt_ids) + len(item.completion_ids) for group in batch.groups for item in group.completions
    )
    shared = sum(len(group.prompt_ids) for group in batch.groups) + batch.num_loss_tokens
    tokens = counter.model_tokens(told=0).value
    assert tokens < padded if packing == "shared_prefix" else tokens == padded
    assert tokens >= shared - len(batch.completions), "the last token of a row predicts nothing"
