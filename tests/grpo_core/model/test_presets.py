from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from grpo_core.config import ModelConfig
from grpo_core.environments.arithmetic import answer, is_held_out, question
from grpo_core.environments.diplomacy.prompts import full_prompt
from grpo_core.environments.diplomacy.synthetic import sample_position
from grpo_core.model import presets
from grpo_core.model.policy import Policy, load_policy
from grpo_core.model.presets import PRESETS, preset_folder
from grpo_core.model.tokenizer import Tokenizer, load_tokenizer
from grpo_core.types import Int32

SKETCH = presets.Preset(
    hidden_size=32,
    num_layers=1,
    num_heads=2,
    num_key_value_heads=1,
    intermediate_size=48,
    num_pretraining_steps=2,
    learning_rate=1e-3,
    vocab_size=512,
)


@pytest.fixture
def sketch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, one_thread: None) -> str:
    """A preset that takes a second to build, in a cache folder of its own."""
    monkeypatch.setenv("GRPO_CACHE", str(tmp_path))
    monkeypatch.setitem(PRESETS, "sketch", SKETCH)
    return "sketch"


@pytest.fixture(scope="module")
def tiny_tokenizer(one_thread: None) -> Tokenizer:
    return load_tokenizer("tiny")


def probability(policy: Policy, prompt: Int32, answer: Int32) -> float:
    ids = torch.from_numpy(np.concatenate([prompt, answer]).astype(np.int64))
    with torch.no_grad():
        logprobs = policy.model(input_ids=ids[None]).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    return float(logprobs.gather(-1, ids[len(prompt) :, None]).sum().exp())


def test_tiny_knows_the_format_of_an_answer_but_mostly_not_the_answer(tiny_tokenizer: Tokenizer) -> None:
    policy = load_policy(ModelConfig(name="tiny", device="cpu"))
    stop = np.array([tiny_tokenizer.stop_id], dtype=np.int32)
    numbers = [np.concatenate([tiny_tokenizer.encode(answer(total, 0)), stop]) for total in range(9)]
    operands = [(0, 0), (1, 2), (4, 4), (3, 2), (0, 4)]
    found = [
        [probability(policy, tiny_tokenizer.encode(question(a, b)), number) for number in numbers] for a, b in operands
    ]
    correct = [row[a + b] for row, (a, b) in zip(found, operands, strict=True)]

    assert 3e6 < sum(parameter.numel() for parameter in policy.model.parameters()) < 5e6
    assert np.mean([sum(row) for row in found]) > 0.5  # a number of the right size, and then the end
    assert 0.03 < np.mean(correct) < 0.6  # something to build on, and something left to learn


def test_adder_can_add_and_mostly_repeats_the_first_number() -> None:
    """Also where training never asks, so that held-out answers show what training brings out."""
    policy, tokenizer = load_policy(ModelConfig(name="adder", device="cpu")), load_tokenizer("adder")
    stop = np.array([tokenizer.stop_id], dtype=np.int32)
    found: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    for a, b in [(a, b) for a in range(0, 15, 2) for b in range(1, 15, 3)]:
        numbers = [np.concatenate([tokenizer.encode(answer(a, added)), stop]) for added in (b, 0)]
        right, repeated = (probability(policy, tokenizer.encode(question(a, b)), number) for number in numbers)
        found[is_held_out(a, b)].append((right, repeated))
    for pairs in found.values():
        right, repeated = np.array(pairs).mean(axis=0)
        assert 0.02 < right < 0.5  # each processor builds a model of its own
        assert repeated > 0.3
        assert right + repeated > 0.5


def test_token_counts_are_realistic(tiny_tokenizer: Tokenizer) -> None:
    """Text of the environments takes several characters a token, and prompts fit the context."""
    rng = random.Random(3)
    for _ in range(20):
        position, power, choices = sample_position(rng)
        text = full_prompt(position, power, choices)
        num_tokens = len(tiny_tokenizer.encode(text))
        assert len(text) / num_tokens > 2.5
        assert num_tokens < PRESETS["tiny"].max_context_tokens - 300


def test_a_preset_is_built_once(sketch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = preset_folder(sketch)
    monkeypatch.setattr(presets, "_build", None)

    assert preset_folder(sketch) == folder
    assert [path for path in folder.parent.iterdir() if path.name.startswith(".")] == []


def test_a_change_of_the_recipe_is_another_folder(sketch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[int] = []
    monkeypatch.setattr(presets, "_build", lambda preset, folder: (built.append(preset.hidden_size), folder.mkdir()))
    first = preset_folder(sketch)
    monkeypatch.setitem(PRESETS, sketch, replace(SKETCH, hidden_size=64))

    assert preset_folder(sketch) != first
    assert built == [32, 64]


@pytest.mark.slow
def test_a_failed_build_leaves_nothing_that_looks_like_a_preset(sketch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(presets, "_pretrain", interrupted)
        with pytest.raises(KeyboardInterrupt):
            preset_folder(sketch)
        assert [path.suffix for path in (presets.cache_folder() / "presets").iterdir()] in ([], [".lock"])

    assert load_policy(ModelConfig(name=sketch, device="cpu")).num_layers == 1


@pytest.mark.slow
def test_builds_are_deterministic(
    sketch: str, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    fingerprints, tokenizers = [], []
    state = torch.get_rng_state()
    for _ in range(2):
        monkeypatch.setenv("GRPO_CACHE", str(tmp_path_factory.mktemp("cache")))
        fingerprints.append(load_policy(ModelConfig(name=sketch, device="cpu")).fingerprint)
        tokenizers.append((preset_folder(sketch) / "tokenizer.json").read_bytes())

    assert fingerprints[0] == fingerprints[1]
    assert tokenizers[0] == tokenizers[1]
    assert torch.equal(state, torch.get_rng_state())


def test_the_cache_folder_can_be_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRPO_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert str(presets.cache_folder()) == "/somewhere/pytest-grpo"
    monkeypatch.setenv("GRPO_CACHE", "/else")
    assert str(presets.cache_folder()) == "/else"
