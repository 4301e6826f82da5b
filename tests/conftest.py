"""For all tests: Ctrl-C, the log level, the local Modal server, and a model that loads in no time."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator

import pytest

from tests.modal_server.fixture import modal_server as modal_server

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # read once per process, also where a test profiles before our trace


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_interrupts() -> Iterator[None]:
    """Of this process and of those that it starts: in a shell's background job they would ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random Qwen2 of a few thousand parameters with a byte-level tokenizer."""
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    folder = tmp_path_factory.mktemp("model")
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(["Q: 1 + 2 =\nA: 3"], vocab_size=300, special_tokens=["<stop>"], show_progress=False)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=trained._tokenizer, eos_token="<stop>", pad_token="<stop>", clean_up_tokenization_spaces=False
    )
    tokenizer.save_pretrained(folder)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        Qwen2ForCausalLM(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(autouse=True)
def keep_log_level() -> Iterator[None]:
    """A command line that a test runs in its own process sets it for all that follow."""
    logger = logging.getLogger("grpo_core")
    level = logger.level
    yield
    logger.setLevel(level)
