"""The LoRA adapter in training: attach it to the model, read it out, write it back."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from grpo_core.config import ModelConfig
from grpo_core.errors import AdapterError, ModelError, first_line
from grpo_core.lora.layout import PEFT_PREFIX
from grpo_core.model.policy import Policy, linear_modules
from grpo_core.training.forward.layers.replace import use_fast_parts
from grpo_core.types import Adapter, PolicyVersion, PolicyWeights


class TrainedAdapter:
    """Implements ``TrainedWeights``: a LoRA adapter, and all other weights frozen."""

    def __init__(self, policy: Policy, config: ModelConfig, seed: int) -> None:
        self._config = config
        self._fingerprint = policy.fingerprint
        self._model = attach_lora(policy, config, seed)

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [parameter for parameter in self._model.parameters() if parameter.requires_grad]

    def read(self, version: PolicyVersion) -> Adapter:
        tensors = {
            name.removeprefix(PEFT_PREFIX): tensor.detach().float().cpu().clone().contiguous()
            for name, tensor in get_peft_model_state_dict(self._model).items()
        }
        return Adapter(
            version=version,
            base_fingerprint=self._fingerprint,
            rank=self._config.lora_rank,
            alpha=self._config.lora_alpha,
            target_modules=self._config.lora_targets,
            tensors=tensors,
        )

    def write(self, weights: PolicyWeights) -> None:
        if not isinstance(weights, Adapter):
            raise AdapterError(
                f"{weights.version.name} has full weights, this trainer an adapter; set training.method to 'full'"
            )
        mine = self.read(weights.version)
        shapes = {name: tensor.shape for name, tensor in mine.tensors.items()}
        if weights.base_fingerprint != mine.base_fingerprint or shapes != {
            name: tensor.shape for name, tensor in weights.tensors.items()
        }:
            raise AdapterError(
                f"adapter {weights.version.name} (base {weights.base_fingerprint}, rank {weights.rank}) does not fit "
                f"this model (base {mine.base_fingerprint}, rank {mine.rank}); use the one it was trained with"
            )
        set_peft_model_state_dict(
            self._model, {f"{PEFT_PREFIX}{name}": tensor for name, tensor in weights.tensors.items()}
        )

    @contextmanager
    def base_model(self) -> Iterator[None]:
        with self._model.disable_adapter():
            yield


def _modules(policy: Policy, targets: Sequence[str]) -> set[str]:
    """Full names in the model of the decoder's linear modules that ``targets`` name."""
    inside = {id(module) for module in policy.decoder.modules()}
    linears = linear_modules(policy.model)
    return {name for name, part in linears.items() if id(part) in inside and name.rpartition(".")[2] in targets}


def attach_lora(policy: Policy, config: ModelConfig, seed: int) -> PeftModel:
    """A trainable LoRA adapter on ``policy``'s model, float32, with B = 0: the policy does not change yet.

    Raises:
        ModelError: ``lora_targets`` is empty or names what is no linear module of the decoder, or PEFT takes it for
            something else.
    """
    # Not the head: it is applied apart from the decoder, and often tied to the embeddings.
    targets = {name.rpartition(".")[2] for name in linear_modules(policy.decoder)}
    wrong = sorted(set(config.lora_targets) - targets)
    if wrong or not config.lora_targets:
        what = f"{', '.join(wrong)} not in the decoder" if wrong else "empty, nothing could be trained"
        raise ModelError(f"model.lora_targets: {what}; allowed: {', '.join(sorted(targets))}")
    modules = _modules(policy, config.lora_targets)
    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,  # pyright: ignore[reportArgumentType]  # PEFT takes a float here
        target_modules=sorted(modules),
        lora_dropout=0.0,
        bias="none",
    )
    refusal = f"model.lora_targets {', '.join(config.lora_targets)} of architecture {policy.architecture!r}"
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # PEFT warns of what is refused below
        warnings.simplefilter("ignore", FutureWarning)  # it reads a name that transformers 5.23 has renamed
        torch.manual_seed(seed)
        try:
            model = get_peft_model(policy.model, lora, autocast_adapter_dtype=True)  # pyright: ignore[reportArgumentType]
        except ValueError as error:
            raise ModelError(f"{refusal}: PEFT does not take them ({first_line(error)}); leave that out") from error
    assert isinstance(model, PeftModel)
    adapted = {
        name.removeprefix(PEFT_PREFIX) for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)
    }
    if adapted != modules:  # PEFT takes some names for those of experts, whose weights are one tensor
        raise ModelError(
            f"{refusal}: PEFT adapts {', '.join(sorted(adapted - modules)) or 'others'} instead of "
            f"{', '.join(sorted(modules - adapted)) or 'these'}; leave names of experts out"
        )
    use_fast_parts(model)
    model.eval()
    return model
