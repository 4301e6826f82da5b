"""A small random model, and batches that any system can train on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pytest_grpo.systems.protocol import Completion, GrpoSystem, SystemSettings, TrainBatch, TrainGroup

STOP_TEXT = "<|endoftext|>"
PROMPTS = ("3 + 4 = ", "Germany, Spring 1901. Orders: ", "12 + 30 = ")

MakeSettings = Callable[..., SystemSettings]
MakeBatch = Callable[..., TrainBatch]


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its weights are spread out, so that its distributions are far from uniform."""
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    torch.set_num_threads(1)  # a model this small loses by a second thread
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(PROMPTS, vocab_size=320, special_tokens=[STOP_TEXT], show_progress=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=trained._tokenizer, eos_token=STOP_TEXT, pad_token=STOP_TEXT)
    stop_id = tokenizer.eos_token_id
    assert isinstance(stop_id, int)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.1,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=stop_id,
        pad_token_id=stop_id,
    )
    folder = tmp_path_factory.mktemp("model")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def make_settings(model_folder: Path, tmp_path: Path) -> MakeSettings:
    def make(**changes: object) -> SystemSettings:
        values: dict[str, object] = {"home": tmp_path / "home", "model": str(model_folder), "device": "cpu"} | changes
        return SystemSettings(**values)  # pyright: ignore[reportArgumentType]

    return make


@pytest.fixture
def make_batch() -> MakeBatch:
    return _make_batch


@pytest.fixture
def randomize() -> Callable[[GrpoSystem], None]:
    """Gives a system's adapter random weights: a new one changes nothing, whatever it is merged into."""

    def apply(system: GrpoSystem) -> None:
        rng = np.random.default_rng(3)
        weights = system.weights()
        system.load_weights(
            {name: rng.normal(0, 0.1, values.shape).astype(np.float32) for name, values in weights.items()}
        )

    return apply


def _make_batch(system: GrpoSystem, *, seed: int = 0, forced: bool = False, reference: bool = False) -> TrainBatch:
    """Three groups of three or four completions of 1 to 9 random tokens; with ``forced``, some were not chosen."""
    rng = np.random.default_rng(seed)
    groups = []
    for prompt in PROMPTS:
        completions = []
        for _ in range(rng.integers(3, 5)):
            num = int(rng.integers(1, 10))
            mask = rng.random(num) < 0.7 if forced else np.ones(num, dtype=np.bool_)
            mask[0] = True
            completions.append(
                Completion(
                    completion_ids=rng.integers(1, 256, num).astype(np.int32),
                    completion_mask=mask,
                    sampling_logprobs=(-5 - 4 * rng.random(num)).astype(np.float32) * mask,
                    ref_logprobs=(-5 - 4 * rng.random(num)).astype(np.float32) * mask if reference else None,
                )
            )
        rewards = tuple(rng.normal(size=len(completions)).tolist())
        groups.append(TrainGroup(system.encode(prompt), tuple(completions), rewards))
    return TrainBatch(tuple(groups))
