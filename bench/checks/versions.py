"""Policy versions with weights that are known, and which answers come from another one than was asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from grpo_core.schedule.loop import publish
from grpo_core.telemetry.events import Telemetry

if TYPE_CHECKING:
    from torch import Tensor

    from grpo_core.schedule.stack import LocalStack
    from grpo_core.types import Completion, Float32, Int32

    from .plain_policy import PlainPolicy

TOLERANCE_NATS = 1e-3  # between sampler and reference
MIN_EFFECT_NATS = 1e-2  # by which two versions differ, or nothing could tell them apart

Answer = tuple["Int32", "Int32", "Float32"]
"""Prompt, completion, and the log-probabilities that the sampler reports."""


@dataclass(frozen=True, slots=True)
class KnownVersions:
    """Versions by number, as the weights that were published. 0 is the base model."""

    policy: PlainPolicy
    weights: Mapping[int, Mapping[str, Tensor]]

    def is_from(self, number: int, answers: Sequence[Answer]) -> bool:
        """Whether ``answers`` have the probabilities of version ``number``, and of no other version."""
        return self._gap(number, answers) <= TOLERANCE_NATS and all(
            self._gap(other, answers) >= MIN_EFFECT_NATS for other in self.weights if other != number
        )

    def is_stale(self, number: int, completion: Completion) -> bool:
        """Whether ``completion``, asked of version ``number``, has anything of another one.

        Its label, its log-probabilities, and its reference's, which are the base model's.
        """
        prompt, ids = completion.prompt_ids, completion.completion_ids
        if completion.policy_version != number or completion.ref_logprobs is None:
            return True
        scores = (number, completion.sampling_logprobs), (0, completion.ref_logprobs)
        return any(self._gap(version, [(prompt, ids, logprobs)]) > TOLERANCE_NATS for version, logprobs in scores)

    def _gap(self, number: int, answers: Sequence[Answer]) -> float:
        """The largest difference between what ``answers`` report and version ``number``."""
        weights = self.weights[number]
        gaps = [
            np.abs(logprobs - self.policy.logprobs(prompt, ids, weights)).max() for prompt, ids, logprobs in answers
        ]
        return float(np.nan_to_num(np.max(gaps), nan=np.inf))


def changed_weights(weights: Mapping[str, Float32], seed: int) -> dict[str, Float32]:
    """``weights`` with noise of this ``seed``, large enough to change every answer."""
    draw = np.random.default_rng(seed)
    return {name: values + draw.normal(0, 0.05, values.shape).astype(values.dtype) for name, values in weights.items()}


def publish_next(stack: LocalStack) -> dict[str, Float32]:
    """Publish the trainer's next version, with other weights, and return these."""
    old = stack.trainer.weights()
    version = replace(old.version, number=old.version.number + 1)
    weights = changed_weights({name: tensor.numpy() for name, tensor in old.tensors.items()}, version.number)
    tensors = {name: torch.from_numpy(values) for name, values in weights.items()}
    stack.trainer.load_weights(replace(old, version=version, tensors=tensors))
    publish(stack, Telemetry(stack.config.run, ()))
    return weights
