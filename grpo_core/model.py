"""The policy: base model and tokenizer from a preset, a folder or a hub id, and the adapter on it."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from grpo_core.attention import ATTENTION_NAME, exact_packing
from grpo_core.config import ModelConfig
from grpo_core.errors import ModelError
from grpo_core.kernels.allocator import keep_freed_memory
from grpo_core.presets import PRESETS, preset_folder
from grpo_core.types import Int32

disable_progress_bar()  # loading takes a moment; the bars would break into our own

SUPPORTED_MODEL_TYPES = ("llama", "qwen2", "qwen3")


class Tokenizer:
    """Text to ids and back, counting its calls per thread so that a trainer can prove that it makes none."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        assert isinstance(tokenizer.eos_token_id, int)
        self.stop_id: int = tokenizer.eos_token_id

    @property
    def backend(self) -> Any:
        """The ``tokenizers.Tokenizer`` beneath, whose calls are not counted."""
        return self._tokenizer.backend_tokenizer  # pyright: ignore[reportAttributeAccessIssue]

    def encode(self, text: str) -> Int32:
        """Ids [T] of ``text``, without special tokens."""
        _calls.count += 1
        return np.asarray(self._tokenizer.encode(text, add_special_tokens=False), dtype=np.int32)

    def decode(self, ids: Sequence[int] | Int32) -> str:
        """Text of ``ids`` without special tokens."""
        _calls.count += 1
        text = self._tokenizer.decode([int(token) for token in ids], skip_special_tokens=True)
        assert isinstance(text, str)
        return text


class _CallCount(threading.local):
    count = 0


_calls = _CallCount()


def num_tokenizer_calls() -> int:
    """Calls of any ``Tokenizer`` in the current thread so far."""
    return _calls.count


@dataclass(frozen=True, slots=True)
class Policy:
    """One copy of the base weights. With ``takes_plan`` it runs under a plan (see ``grpo_core.attention``)."""

    name: str  # as configured
    architecture: str  # transformers' ``model_type``
    takes_plan: bool  # so that the torch engine can drive it; PlainEngine needs none, nor does the trainer
    model: nn.Module  # a transformers causal language model
    decoder: nn.Module  # its layers without the head: ids -> hidden states
    head: nn.Module  # hidden states -> logits [.., V]
    num_layers: int
    vocab_size: int
    max_context_tokens: int
    fingerprint: str
    device: torch.device


def resolve_device(device: str) -> torch.device:
    """The torch device of a config's ``model.device``.

    Raises:
        ModelError: there is no such device.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
        torch.empty(0, device=resolved)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(
            f"model.device {device!r}: {str(error).splitlines()[0]}; use 'auto', 'cpu' or 'cuda'"
        ) from None
    return resolved


def locate_model(name: str) -> str:
    """The folder of a preset or a local model, else ``name`` as a hub id.

    Raises:
        ModelError: ``name`` is neither a preset, nor a folder with a model, nor looks like a hub id.
    """
    if name in PRESETS:
        return str(preset_folder(name))
    folder = Path(name)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelError(f"model {name!r}: the folder has no config.json; give a folder that transformers can load")
        return name
    if name.count("/") != 1 or name.startswith((".", "/")):
        raise ModelError(
            f"model {name!r}: no such preset or folder; allowed: {', '.join(PRESETS)}, a model folder, "
            "or a hub id such as 'Qwen/Qwen2.5-0.5B'"
        )
    return name


def load_tokenizer(name: str) -> Tokenizer:
    """The tokenizer of a preset, folder or hub id.

    Raises:
        ModelError: there is none, or it has no end-of-sequence token.
    """
    where = locate_model(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(where)
    except (OSError, ValueError) as error:
        raise ModelError(f"model {name!r}: no tokenizer ({_first_line(error)}); add its tokenizer files") from error
    if len(tokenizer) <= len(tokenizer.all_special_ids):  # what transformers makes up for a folder without its files
        raise ModelError(f"model {name!r}: no tokenizer (its vocabulary is empty); add its tokenizer files")
    if not isinstance(tokenizer.eos_token_id, int):
        raise ModelError(f"model {name!r}: its tokenizer has no eos_token; set one in tokenizer_config.json")
    return Tokenizer(tokenizer)


def load_policy(config: ModelConfig, *, any_architecture: bool = False) -> Policy:
    """The base model of ``config`` on its device, frozen and in evaluation mode.

    On a CPU the process keeps some of the memory that it frees from then on (see ``heap``).
    With ``any_architecture`` one whose attention this code does not drive keeps transformers' own.

    Raises:
        ModelError: it cannot be found or loaded, or is of such an architecture and that was not asked for.
    """
    where = locate_model(config.name)
    device = resolve_device(config.device)
    try:
        model_config = AutoConfig.from_pretrained(where)
    except (OSError, ValueError) as error:
        raise ModelError(f"model {config.name!r}: cannot be loaded ({_first_line(error)}); check its files") from error
    obstacle = _obstacle(model_config)
    if obstacle and not any_architecture:
        raise ModelError(f"model {config.name!r}: {obstacle}")
    try:
        model, loaded = AutoModelForCausalLM.from_pretrained(  # pyright: ignore[reportGeneralTypeIssues]  # a pair
            where,
            dtype=getattr(torch, config.dtype),
            attn_implementation=ATTENTION_NAME if exact_packing(model_config) == "shared_prefix" else None,
            ignore_mismatched_sizes=True,  # they are an error below, with the others
            output_loading_info=True,
        )
    except (OSError, SafetensorError, ValueError) as error:  # ValueError: no causal language model
        raise ModelError(f"model {config.name!r}: cannot be loaded ({_first_line(error)}); check its files") from error
    # transformers would go on with random values in their place.
    if lost := sorted({*loaded["missing_keys"], *(name for name, *_ in loaded["mismatched_keys"])}):
        raise ModelError(
            f"model {config.name!r}: {len(lost)} weights are missing or of another shape than config.json says "
            f"({lost[0]}); check its files"
        )
    head = model.get_output_embeddings()
    assert isinstance(head, nn.Module)
    model.requires_grad_(False)
    model.eval()
    nn.Module.to(model, device)
    if device.type == "cpu":
        keep_freed_memory()
    return Policy(
        name=config.name,
        architecture=model_config.model_type,
        takes_plan=obstacle is None,
        model=model,
        decoder=model.get_decoder(),
        head=head,
        num_layers=model_config.num_hidden_layers,
        vocab_size=model_config.vocab_size,
        max_context_tokens=_max_context_tokens(config.name, model_config),
        fingerprint=_fingerprint(model),
        device=device,
    )


def distinct_tensors(model: nn.Module) -> dict[str, Tensor]:
    """All that ``model``'s state consists of, by name: its own parameters and buffers, tied ones once."""
    named = model.state_dict(keep_vars=True)
    first = {id(tensor): name for name, tensor in reversed(named.items())}  # of the names that share a tensor
    return {name: tensor for name, tensor in named.items() if first[id(tensor)] == name}


def _obstacle(model_config: PreTrainedConfig) -> str | None:
    """Why this code cannot drive the attention of such a model, and what it can; None when it can."""
    if model_config.model_type not in SUPPORTED_MODEL_TYPES:
        return (
            f"architecture {model_config.model_type!r} is not supported; allowed: {', '.join(SUPPORTED_MODEL_TYPES)}, "
            "and others with rollout.engine 'plain' or 'vllm'"
        )
    if model_config.model_type != "llama" and set(model_config.layer_types) != {"full_attention"}:
        return "sliding-window layers are not supported; use full attention, or rollout.engine 'plain' or 'vllm'"
    return None


def _max_context_tokens(name: str, model_config: PreTrainedConfig) -> int:
    try:
        return model_config.max_position_embeddings
    except AttributeError:
        raise ModelError(f"model {name!r}: no max_position_embeddings in its config.json; add it there") from None


def _fingerprint(model: nn.Module) -> str:
    """Identifies the base weights: shapes and a sample of the values of every tensor."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        flat = tensor.detach().flatten()
        sample = flat[:: max(1, flat.numel() // 256)].float().cpu().numpy()
        digest.update(sample.tobytes())
    return digest.hexdigest()[:16]


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
