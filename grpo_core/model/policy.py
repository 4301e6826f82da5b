"""The policy: base model and tokenizer from a preset, a folder or a hub id, and the adapter on it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedConfig
from transformers.utils.logging import disable_progress_bar

from grpo_core.config import ModelConfig
from grpo_core.errors import ModelError, first_line
from grpo_core.kernels.allocator import keep_freed_memory
from grpo_core.kernels.forked import compute_alone_when_forked
from grpo_core.kernels.linear import FrozenLinear
from grpo_core.model.attention import ATTENTION_NAME, exact_packing
from grpo_core.model.memory import check_memory
from grpo_core.model.source import locate_model, read_model_config, reading, unloadable

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

    On a CPU the process keeps some freed memory from then on (see ``kernels.allocator``), and processes that are forked
    from it compute in one thread (``kernels.forked``). With ``any_architecture`` a model of another architecture is
    loaded, too, and keeps transformers' own attention.

    Raises:
        ModelError: it cannot be found or loaded, or has another architecture without ``any_architecture``.
    """
    device = resolve_device(config.device)
    model_config = read_model_config(config.name)  # may build a preset
    with reading(config.name, "cannot be loaded", "check its files"):
        text_config = model_config.get_text_config(decoder=True)
    obstacle = _obstacle(model_config)
    if obstacle and not any_architecture:
        raise ModelError(f"model {config.name!r}: {obstacle}")
    check_memory(config.name, model_config, getattr(torch, config.dtype), device)
    model = _load_model(config, locate_model(config.name), model_config)
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    if not isinstance(head, nn.Linear) or not isinstance(embeddings, nn.Embedding):
        raise ModelError(
            f"model {config.name!r}: {type(model).__name__} has no embeddings or no linear head; use a language model"
        )
    model.requires_grad_(False)
    model.eval()
    nn.Module.to(model, device)
    if device.type == "cpu":
        keep_freed_memory()
        compute_alone_when_forked()
    return Policy(
        name=config.name,
        architecture=model_config.model_type,
        takes_plan=obstacle is None,
        model=model,
        decoder=_decoder(model),
        head=head,
        num_layers=text_config.num_hidden_layers,
        vocab_size=min(head.out_features, len(embeddings.weight)),
        max_context_tokens=_max_context_tokens(config.name, text_config),
        hidden_size=embeddings.embedding_dim,
        fingerprint=_fingerprint(model),
        device=device,
    )


def context_of(name: str) -> int:
    """How many tokens model ``name`` reads at most. Reads its ``config.json`` alone; may build a preset.

    Raises:
        ModelError: it cannot be found, or does not say.
    """
    model_config = read_model_config(name)
    with reading(name, "cannot be loaded", "check its files"):
        text_config = model_config.get_text_config(decoder=True)
    return _max_context_tokens(name, text_config)


def _load_model(config: ModelConfig, where: str, model_config: PreTrainedConfig) -> Any:
    """The model as transformers loads it. Raises ModelError where some of its weights are not there as numbers."""
    quantised = model_config.to_dict().get("quantization_config")
    way_out = "check its files"
    if quantised is not None:
        way_out = f"its weights are quantised by {quantised.get('quant_method')}, take a checkpoint that is not"
    try:
        model, loaded = AutoModelForCausalLM.from_pretrained(  # pyright: ignore[reportGeneralTypeIssues]  # a pair
            where,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=getattr(torch, config.dtype),
            attn_implementation=ATTENTION_NAME if exact_packing(model_config) == "shared_prefix" else None,
            ignore_mismatched_sizes=True,  # reported below, with the missing ones
            output_loading_info=True,
        )
    except Exception as error:  # of damaged files transformers raises whatever its parsers did
        if quantised is None:
            raise unloadable(config.name, error) from error
        raise ModelError(f"model {config.name!r}: cannot be loaded ({first_line(error)}); {way_out}") from error
    # transformers would only warn, and use random values.
    if lost := sorted({*loaded["missing_keys"], *(name for name, *_ in loaded["mismatched_keys"])}):
        raise ModelError(
            f"model {config.name!r}: {len(lost)} weights are missing or of another shape than config.json says "
            f"({lost[0]}); check its files"
        )
    if model.config.to_dict().get("quantization_config") is not None:  # it is gone where loading has undone it
        raise ModelError(f"model {config.name!r}: cannot be trained; {way_out}")
    return model


def _decoder(model: Any) -> nn.Module:
    """The layers of ``model`` without its head: what transformers calls so, if it has the embeddings; else the part
    that has them. Some models name their head so, or take themselves for it."""
    found, embeddings = model.get_decoder(), model.get_input_embeddings()
    candidates = [found, *model.children()]
    return next(part for part in candidates if part not in (model, embeddings) and embeddings in set(part.modules()))


def linear_modules(module: nn.Module) -> dict[str, nn.Linear]:
    """The linear modules of ``module`` by name: those that an adapter fits.

    Not routers, which return more, nor maps of groups, which take several inputs at once (DeepSeek V4).
    """
    return {name: part for name, part in module.named_modules() if isinstance(part, nn.Linear) and _is_map(part)}


@torch.no_grad()
def _is_map(linear: nn.Linear) -> bool:
    if type(linear) in (nn.Linear, FrozenLinear):
        return True
    try:
        output = linear(linear.weight.new_zeros(1, linear.in_features))
    except RuntimeError:  # torch's own: an input of this shape does not fit
        return False
    return isinstance(output, Tensor)


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
