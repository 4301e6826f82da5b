"""Small random models in real folders, and the plain way to do what the core does fast.

The models have few parameters but spread-out weights, so that their distributions are far from uniform.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from grpo_core.types import Completion, Int32, RaggedIds

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerFast

    from grpo_core.model.policy import Policy
    from grpo_core.model.tokenizer import Tokenizer
    from grpo_core.types import Adapter

ARCHITECTURES = ("qwen2", "qwen3", "llama")
STOP_TEXT = "<|endoftext|>"
MAX_CONTEXT_TOKENS = 2048

MakeCompletion = Callable[..., Completion]
PlainLogprobs = Callable[..., "Tensor"]
MakeAdapter = Callable[..., "Adapter"]
LoadPlain = Callable[[Path], Any]


@pytest.fixture(scope="session")
def one_thread() -> None:
    """Models as small as these lose by a second thread, and on a busy machine they lose a hundredfold."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def fresh_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """The folder of compiled code of a machine on which nothing was compiled yet."""
    from grpo_core.kernels.compiler import load_kernels

    monkeypatch.setenv("GRPO_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CC", raising=False)
    load_kernels.cache_clear()
    yield tmp_path / "cache" / "kernels"
    load_kernels.cache_clear()


@pytest.fixture(scope="session")
def model_folders(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> dict[str, Path]:
    """One random model per supported architecture, with the same byte-level tokenizer."""
    root = tmp_path_factory.mktemp("models")
    tokenizer = _train_tokenizer()
    folders = {}
    for architecture in ARCHITECTURES:
        folder = folders[architecture] = root / architecture
        _random_model(architecture, len(tokenizer)).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folders


@pytest.fixture(scope="session")
def model_folder(model_folders: dict[str, Path]) -> Path:
    return model_folders["qwen2"]


@pytest.fixture(scope="session")
def vllm_model_folder(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``model_folder`` with heads of 32: vLLM's attention on a CPU has no kernel for smaller ones."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("vllm") / "model"
    shutil.copytree(model_folder, folder)
    config = AutoConfig.from_pretrained(folder)
    config.update({"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():
            if parameter.dim() == 1:
                torch.nn.init.normal_(parameter, mean=parameter.mean().item(), std=0.1)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def mistral_folder(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of an architecture whose attention takes no plan."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    config = AutoConfig.for_model(
        "mistral",
        vocab_size=384,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
        sliding_window=8,
    )
    folder = tmp_path_factory.mktemp("mistral")
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(model_folder).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tokenizer(model_folder: Path) -> Tokenizer:
    from grpo_core.model.tokenizer import load_tokenizer

    return load_tokenizer(str(model_folder))


@pytest.fixture
def policy(model_folder: Path) -> Policy:
    from grpo_core.config import ModelConfig
    from grpo_core.model.policy import load_policy

    return load_policy(ModelConfig(name=str(model_folder), device="cpu"))


@pytest.fixture
def plain_model(model_folder: Path) -> nn.Module:
    """The weights of ``policy`` as transformers runs them, without a line of this project."""
    return _load_plain(model_folder)


@pytest.fixture(scope="session")
def load_plain() -> LoadPlain:
    return _load_plain


@pytest.fixture(scope="session")
def in_float64() -> Callable[[nn.Module], None]:
    return _in_float64


@pytest.fixture(scope="session")
def plain_logprobs() -> PlainLogprobs:
    return _plain_logprobs


@pytest.fixture(scope="session")
def make_completion() -> MakeCompletion:
    return _make_completion


@pytest.fixture(scope="session")
def make_adapter() -> MakeAdapter:
    return _make_adapter


def _load_plain(folder: Path) -> nn.Module:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa").eval()


def _train_tokenizer() -> PreTrainedTokenizerFast:
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    from grpo_core.environments.arithmetic import answer, question
    from grpo_core.environments.diplomacy.prompts import compact_prompt
    from grpo_core.environments.diplomacy.synthetic import sample_position

    rng = random.Random(0)
    texts = [question(a, b) + answer(a, b) for a in range(5) for b in range(5)]
    for _ in range(20):
        position, power, choices = sample_position(rng)
        texts.append(compact_prompt(position, power, choices) + "".join(map(rng.choice, choices)))
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(texts, vocab_size=384, min_frequency=2, special_tokens=[STOP_TEXT], show_progress=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=trained._tokenizer,
        eos_token=STOP_TEXT,
        pad_token=STOP_TEXT,
        model_max_length=MAX_CONTEXT_TOKENS,
        clean_up_tokenization_spaces=False,
    )


def _random_model(architecture: str, vocab_size: int) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        architecture,
        vocab_size=vocab_size,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=MAX_CONTEXT_TOKENS,
        initializer_range=0.1,
        tie_word_embeddings=architecture != "llama",
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():  # biases too, which start as zeros
            if parameter.dim() == 1:
                torch.nn.init.normal_(parameter, mean=parameter.mean().item(), std=0.1)
    return model


def _in_float64(model: nn.Module) -> None:
    """Compute all of ``model`` in float64. Its norms go through float32 otherwise, whatever the weights are."""
    import torch

    model.to(torch.float64)
    norms: list[Any] = [module for module in model.modules() if type(module).__name__.endswith("RMSNorm")]
    for norm in norms:
        shape = (norm.weight.numel(),)
        norm.forward = partial(torch.rms_norm, normalized_shape=shape, weight=norm.weight, eps=norm.variance_epsilon)


def _plain_logprobs(model: Any, completion: Completion) -> Tensor:
    """Log-probabilities [R] of ``completion`` under ``model``, on its own; 0 where the token was forced.

    ``model`` is one of transformers or PEFT. Temperature and support are the completion's.
    """
    import torch

    ids = np.concatenate([completion.prompt_ids, completion.completion_ids]).astype(np.int64)
    logits = model(input_ids=torch.from_numpy(ids)[None]).logits[0, len(completion.prompt_ids) - 1 : -1]
    logits = logits / completion.temperature
    if completion.allowed_ids is not None:
        banned = torch.ones_like(logits, dtype=torch.bool)
        for position in range(len(completion.completion_ids)):
            banned[position, completion.allowed_ids[position].astype(np.int64)] = False
        logits = logits.masked_fill(banned, float("-inf"))
    targets = torch.from_numpy(completion.completion_ids.astype(np.int64))
    logprobs = logits.log_softmax(dim=-1).gather(-1, targets[:, None])[:, 0]
    return logprobs.where(torch.from_numpy(completion.completion_mask), 0.0)


def _make_completion(
    rng: np.random.Generator,
    prompt_ids: Int32,
    num_tokens: int,
    *,
    vocab_size: int = 320,
    temperature: float = 1.0,
    constrained: bool = False,
    all_forced: bool = False,
    sampling_logprobs: Any = None,
) -> Completion:
    """Random tokens. Constrained ones have a support of 1 (forced) to 6 ids each."""
    ids = rng.integers(1, vocab_size, num_tokens, dtype=np.int32)
    mask = np.ones(num_tokens, dtype=np.bool_)
    allowed = None
    if constrained or all_forced:
        sizes = np.ones(num_tokens, dtype=np.int64) if all_forced else rng.integers(1, 7, num_tokens)
        supports = [np.union1d(rng.integers(1, vocab_size, size - 1), ids[i]) for i, size in enumerate(sizes)]
        offsets = np.concatenate([[0], np.cumsum([len(support) for support in supports])]).astype(np.int32)
        allowed = RaggedIds(np.concatenate(supports).astype(np.int32), offsets)
        mask = np.array([len(support) > 1 for support in supports])
    if sampling_logprobs is None:
        sampling_logprobs = -rng.random(num_tokens, dtype=np.float32) * mask
    return Completion(
        prompt_ids=prompt_ids,
        completion_ids=ids,
        completion_mask=mask,
        sampling_logprobs=sampling_logprobs,
        policy_version=0,
        temperature=temperature,
        finish_reason="length",
        allowed_ids=allowed,
    )


def _make_adapter(
    policy: Policy,
    *,
    number: int = 1,
    run: str = "run",
    targets: tuple[str, ...] = ("q_proj", "v_proj", "up_proj", "down_proj"),
    rank: int = 4,
    std: float = 0.1,
    seed: int = 0,
) -> Adapter:
    """Random A and B, for all ``targets`` in every layer: an adapter that changes what the policy says."""
    import torch

    from grpo_core.types import Adapter, PolicyVersion

    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, module in policy.model.named_modules():
        if isinstance(module, torch.nn.Linear) and name.rpartition(".")[2] in targets:
            out_features, in_features = module.weight.shape
            tensors[f"{name}.lora_A.weight"] = torch.randn(rank, in_features, generator=generator) * std
            tensors[f"{name}.lora_B.weight"] = torch.randn(out_features, rank, generator=generator) * std
    assert tensors, targets
    return Adapter(PolicyVersion(run, number), policy.fingerprint, rank, 2.0 * rank, targets, tensors)
