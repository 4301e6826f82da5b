"""The policy: base model and tokenizer from a preset, a folder or a hub id, and the adapter on it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedConfig
from transformers.utils.logging import disable_progress_bar

from grpo_core.config import ModelConfig
from grpo_core.errors import ModelError
from grpo_core.kernels.allocator import keep_freed_memory
from grpo_core.model.attention import ATTENTION_NAME, exact_packing
from grpo_core.model.source import locate_model, read_model_config, unloadable

disable_progress_bar()  # its progress bars would interrupt ours

SUPPORTED_MODEL_TYPES = ("llama", "qwen2", "qwen3")


@dataclass(frozen=True, slots=True)
class Policy:
    """One copy of the base weights. With ``takes_plan`` it runs under a plan (see ``grpo_core.model.attention``)."""

    name: str  # as configured
    architecture: str  # transformers' ``model_type``
    takes_plan: bool  # so that the torch engine can drive it; PlainEngine needs none, nor does the trainer
    model: nn.Module  # a transformers causal language model
    decoder: nn.Module  # its layers without the head: ids -> hidden states
    head: nn.Module  # hidden states -> logits [.., V]
    num_layers: int
    vocab_size: int
    hidden_size: int
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


def load_policy(config: ModelConfig, *, any_architecture: bool = False) -> Policy:
    """The base model of ``config`` on its device, frozen and in evaluation mode.

    On a CPU the process keeps some freed memory from then on (see ``kernels.allocator``). With ``any_architecture`` a
    model of another architecture is loaded, too, and keeps transformers' own attention.

    Raises:
        ModelError: it cannot be found or loaded, or has another architecture without ``any_architecture``.
    """
    device = resolve_device(config.device)
    model_config = read_model_config(config.name)  # may build a preset
    obstacle = _obstacle(model_config)
    if obstacle and not any_architecture:
        raise ModelError(f"model {config.name!r}: {obstacle}")
    try:
        model, loaded = AutoModelForCausalLM.from_pretrained(  # pyright: ignore[reportGeneralTypeIssues]  # a pair
            locate_model(config.name),
            trust_remote_code=False,
            use_safetensors=True,
            dtype=getattr(torch, config.dtype),
            attn_implementation=ATTENTION_NAME if exact_packing(model_config) == "shared_prefix" else None,
            ignore_mismatched_sizes=True,  # reported below, with the missing ones
            output_loading_info=True,
        )
    except Exception as error:  # of damaged files transformers raises whatever its parsers did
        raise unloadable(config.name, error) from error
    # transformers would only warn, and use random values.
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
        hidden_size=model.get_input_embeddings().embedding_dim,
        max_context_tokens=_max_context_tokens(config.name, model_config),
        fingerprint=_fingerprint(model),
        device=device,
    )


def distinct_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers of ``model`` by name, tied ones once."""
    named = model.state_dict(keep_vars=True)
    first = {id(tensor): name for name, tensor in reversed(named.items())}  # of the names that share a tensor
    return {name: tensor for name, tensor in named.items() if first[id(tensor)] == name}


def _obstacle(model_config: PreTrainedConfig) -> str | None:
    """Why this code does not support such a model, and what to do; None when it does."""
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
