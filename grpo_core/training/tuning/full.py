"""Full fine-tuning: every weight of the model is trained."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from grpo_core.config import ModelConfig
from grpo_core.errors import AdapterError, ModelError
from grpo_core.lora.check import check_full_weights
from grpo_core.model.policy import Policy, distinct_tensors, load_policy
from grpo_core.training.forward.layers.replace import use_fast_parts
from grpo_core.types import FullWeights, PolicyVersion, PolicyWeights


class TrainedModel:
    """Implements ``TrainedWeights``: all weights, in float32 whatever ``model.dtype`` is; tied ones once.

    The base model is loaded a second time only when ``base_model`` is first called.
    """

    def __init__(self, policy: Policy, config: ModelConfig) -> None:
        self._policy = policy
        self._config = config
        for parameter in policy.model.parameters():
            # A copy: loaded weights may be memory-mapped pages of their file.
            parameter.data = parameter.data.to(torch.float32, copy=True)
            parameter.requires_grad_(True)
        use_fast_parts(policy.model)

    @property
    def parameters(self) -> list[nn.Parameter]:
        return list(self._policy.model.parameters())

    def read(self, version: PolicyVersion) -> FullWeights:
        config: Any = self._policy.model.config
        return FullWeights(
            version=version,
            base_fingerprint=self._policy.fingerprint,
            architecture=json.loads(config.to_json_string()) | {"dtype": "float32"},
            tensors={
                name: tensor.detach().to("cpu", torch.float32, copy=True).contiguous()
                for name, tensor in distinct_tensors(self._policy.model).items()
            },
        )

    @torch.no_grad()
    def write(self, weights: PolicyWeights) -> None:
        if not isinstance(weights, FullWeights):
            raise AdapterError(
                f"{weights.version.name} is an adapter, this trainer has full weights; set training.method to 'lora'"
            )
        mine = distinct_tensors(self._policy.model)
        check_full_weights(weights, self._policy.fingerprint, mine)
        for key, tensor in weights.tensors.items():
            mine[key].copy_(tensor)

    @contextmanager
    def base_model(self) -> Iterator[None]:
        """Raises ModelError where the files of the base model have changed since the trainer began."""
        own = [(parameter, parameter.data) for parameter in self.parameters]
        try:
            for (parameter, data), base in zip(own, self._base, strict=True):
                parameter.data = base.to(data.dtype)
            yield
        finally:
            for parameter, data in own:
                parameter.data = data

    @cached_property
    def _base(self) -> list[Tensor]:
        base = load_policy(self._config, any_architecture=True)
        if base.fingerprint != self._policy.fingerprint:
            raise ModelError(
                f"model {self._config.name!r}: its weights are {base.fingerprint} now and were "
                f"{self._policy.fingerprint} when training began; the reference of the KL term is gone: put them back"
            )
        return [parameter.data for parameter in base.model.parameters()]
