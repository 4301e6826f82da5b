from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytest_grpo.systems.counting.passes import Pass, watch_passes

VOCAB_SIZE = 11


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCAB_SIZE, 4)

    def forward(self, input_ids: Tensor | None = None, inputs_embeds: Tensor | None = None) -> Tensor:
        return self.embedding(input_ids) if input_ids is not None else torch.as_tensor(inputs_embeds)


IDS = torch.zeros(2, 3, dtype=torch.long)


def test_a_pass_has_its_tokens_and_its_gradient() -> None:
    decoder = Decoder()
    with watch_passes([decoder], VOCAB_SIZE) as passes:
        decoder(IDS)
        with torch.no_grad():
            decoder(input_ids=IDS[:1])
        decoder(inputs_embeds=torch.zeros(5, 2, 4))
    decoder(IDS)
    assert passes.at_modules == [Pass(6, True), Pass(3, False), Pass(10, True)]
    assert passes.at_tables == [Pass(6, True), Pass(3, False)], "embeddings are looked up elsewhere"
    assert passes.seen == passes.at_modules


def test_a_pass_in_another_thread_is_seen_at_its_module() -> None:
    decoder = Decoder()
    with watch_passes([decoder], VOCAB_SIZE) as passes:
        thread = threading.Thread(target=decoder, args=(IDS,))
        thread.start()
        thread.join()
    assert [each.num_tokens for each in passes.seen] == [6]


def test_a_model_that_nobody_shows_is_seen_at_its_table() -> None:
    with watch_passes([], VOCAB_SIZE) as passes:
        for length in (VOCAB_SIZE, VOCAB_SIZE, VOCAB_SIZE + 1):
            F.embedding(IDS, torch.zeros(length, 2))
    assert [each.num_tokens for each in passes.seen] == [6, 6]


def test_a_hidden_second_model_beside_the_shown_one_is_seen() -> None:
    shown, hidden = Decoder(), Decoder()
    with watch_passes([shown], VOCAB_SIZE) as passes:
        shown(IDS)
        hidden(IDS)
    assert (len(passes.at_modules), len(passes.seen)) == (1, 2)


def test_an_error_inside_leaves_no_hook() -> None:
    decoder = Decoder()
    with pytest.raises(RuntimeError), watch_passes([decoder], VOCAB_SIZE):
        raise RuntimeError
    assert not decoder._forward_pre_hooks
