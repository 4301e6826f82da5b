from __future__ import annotations

import numpy as np
import torch

from bench.checks.plain_policy import PlainPolicy
from bench.checks.versions import KnownVersions, changed_weights

MODULE = "model.layers.0.mlp.down_proj"


def test_answers_are_known_by_their_version() -> None:
    plain = PlainPolicy("tiny", scaling=2.0)
    rows, columns = dict(plain._model.named_parameters())[f"{MODULE}.weight"].shape
    zeros = {
        f"{MODULE}.lora_A.weight": np.zeros((4, columns), dtype=np.float32),
        f"{MODULE}.lora_B.weight": np.zeros((rows, 4), dtype=np.float32),
    }
    weights = {0: {}, **{number: plain.merged(changed_weights(zeros, number)) for number in (1, 2)}}
    known = KnownVersions(plain, weights)
    prompt, ids = np.arange(5, 25, dtype=np.int32), np.array([7, 8, 9], dtype=np.int32)
    answer = (prompt, ids, plain.logprobs(prompt, ids, weights[1]))
    assert known.is_from(1, [answer])
    assert not known.is_from(2, [answer])
    same = KnownVersions(plain, weights | {3: weights[1]})
    assert not same.is_from(1, [answer])  # nothing could tell them apart


def test_an_adapter_is_added_with_its_scaling() -> None:
    plain = PlainPolicy("tiny", scaling=2.0)
    base = dict(plain._model.named_parameters())[f"{MODULE}.weight"].detach()
    down, up = np.ones((1, base.shape[1]), np.float32), np.full((base.shape[0], 1), 0.5, np.float32)
    merged = plain.merged({f"{MODULE}.lora_A.weight": down, f"{MODULE}.lora_B.weight": up})
    assert torch.allclose(merged[f"{MODULE}.weight"] - base, torch.ones_like(base), atol=1e-5)
