"""Faults that phase 5 must see: compact prompts that are not, and short prompts that lead to other answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from bench.faults.fault import WRONG_ANSWERS, Fault

if TYPE_CHECKING:
    from torch import Tensor, nn

    from grpo_core.attention import AttentionPlan
    from grpo_core.environments.diplomacy.game import DiplomacyEnvironment
    from grpo_core.environments.diplomacy.position import Position
    from grpo_core.environments.diplomacy.prompts import Segments
    from grpo_core.rollout.collector import Collector
    from grpo_core.rollout.protocol import GenerationRequest
    from grpo_core.rollout.torch_engine.attention import DecodePlan
    from grpo_core.types import Observation

FULL_PROMPT_TOKENS = 1000
PREFILL_BUCKET_TOKENS = 1024
SHORT_MASK_TOKENS = 512


def compact_padded(patch: pytest.MonkeyPatch) -> None:
    """Every prompt is padded to the length of a full one."""
    import numpy as np

    from grpo_core.rollout.collector import Collector

    original = Collector._request

    def request(self: Collector, observation: Observation, seed: int, wants_reference: bool) -> GenerationRequest:
        asked = original(self, observation, seed, wants_reference)
        padding = max(0, FULL_PROMPT_TOKENS - len(asked.prompt_ids))
        return replace(asked, prompt_ids=np.pad(asked.prompt_ids, (padding, 0)))

    patch.setattr(Collector, "_request", request)


def compact_flag_ignored(patch: pytest.MonkeyPatch) -> None:
    """The environment writes full prompts although compact ones were asked for."""
    from grpo_core.environments.diplomacy import game

    patch.setattr(game, "compact_prompt", game.full_prompt)


def examples_before_compact(patch: pytest.MonkeyPatch) -> None:
    """Compact prompts begin with worked examples, longer than what they save."""
    from grpo_core.environments.diplomacy import game, prompts

    original = game.compact_prompt

    def compact_prompt(position: Position, power: str, segments: Segments) -> str:
        return prompts._FULL_RULES * 3 + original(position, power, segments)

    patch.setattr(game, "compact_prompt", compact_prompt)


def prefill_in_fixed_buckets(patch: pytest.MonkeyPatch) -> None:
    """Prompts are prefilled in rows of 1,024 tokens, for a compiler that wants fixed shapes."""
    from torch.nn import functional

    from grpo_core.rollout.torch_engine import decode
    from grpo_core.rollout.torch_engine.attention import PrefillPlan

    original = decode.forward_hidden

    def forward_hidden(decoder: nn.Module, input_ids: Tensor, position_ids: Tensor, plan: AttentionPlan) -> Tensor:
        if isinstance(plan, PrefillPlan):
            padding = (0, -input_ids.shape[1] % PREFILL_BUCKET_TOKENS)
            input_ids, position_ids = (functional.pad(ids, padding) for ids in (input_ids, position_ids))
        return original(decoder, input_ids, position_ids, plan)

    patch.setattr(decode, "forward_hidden", forward_hidden)


def compact_drops_a_unit(patch: pytest.MonkeyPatch) -> None:
    """Compact prompts ask for no orders of a power's last unit: faster, and wrong."""
    from grpo_core.environments.diplomacy import game

    original: Callable[[DiplomacyEnvironment], tuple[Observation, ...]] = game.DiplomacyEnvironment._make_observations

    def make_observations(self: DiplomacyEnvironment) -> tuple[Observation, ...]:
        observations = original(self)
        if self._prompt is not game.compact_prompt:
            return observations
        return tuple(replace(item, choices=item.choices[:-1] if item.choices else None) for item in observations)

    patch.setattr(game.DiplomacyEnvironment, "_make_observations", make_observations)


def decoding_forgets_long_prompts(patch: pytest.MonkeyPatch) -> None:
    """While decoding, only the first 512 tokens of a prompt are seen: the mask is of fixed size."""
    import torch

    from grpo_core.rollout.torch_engine.attention import DecodePlan

    original = DecodePlan.refresh

    def refresh(self: DecodePlan) -> None:
        original(self)
        size, lengths = self._cache.prefix_keys[0].shape[2], self._cache.prompt_lengths
        columns = torch.arange(size, device=lengths.device)[None]
        unseen = (columns >= lengths[:, None]) | (columns >= SHORT_MASK_TOKENS)
        self._padding = unseen[:, None, None, :] if bool(unseen.any()) else None

    patch.setattr(DecodePlan, "refresh", refresh)


FAULTS = (
    Fault(5, ("compact_tokens_per_second_ratio",), compact_padded),
    Fault(5, ("compact_tokens_per_second_ratio",), compact_flag_ignored),
    Fault(5, ("compact_tokens_per_second_ratio",), examples_before_compact),
    Fault(5, ("compact_tokens_per_second_ratio",), prefill_in_fixed_buckets),
    Fault(5, ("compact_tokens_per_second_ratio",), compact_drops_a_unit, WRONG_ANSWERS),
    Fault(5, ("sampler_ratio_error",), decoding_forgets_long_prompts),
)
