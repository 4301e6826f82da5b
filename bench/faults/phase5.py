"""Faults that phase 5 must detect: compact prompts that are long, and compact prompts that change the answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from bench.faults.fault import WRONG_ANSWERS, Fault

if TYPE_CHECKING:
    from torch import Tensor

    from grpo_core.environments.diplomacy.game import DiplomacyEnvironment
    from grpo_core.environments.diplomacy.position import Position
    from grpo_core.environments.diplomacy.prompts import Segments
    from grpo_core.rollout.play.requests import RequestBuilder
    from grpo_core.rollout.protocol import GenerationRequest
    from grpo_core.rollout.torch_engine.forward.passes import Passes
    from grpo_core.rollout.torch_engine.weights.fused import DecoderWeights
    from grpo_core.rollout.torch_engine.weights.versions import VersionWeights
    from grpo_core.types import Completion, Float32, Observation

FULL_PROMPT_TOKENS = 1000
PREFILL_BUCKET_TOKENS = 1024
SHORT_MASK_TOKENS = 512
NUM_BLANKS = 200


def compact_padded(patch: pytest.MonkeyPatch) -> None:
    """Every prompt is padded to the length of a full one."""
    import numpy as np

    from grpo_core.rollout.play.requests import RequestBuilder

    original = RequestBuilder.build

    def build(self: RequestBuilder, observation: Observation, seed: int, **how: Any) -> GenerationRequest:
        asked = original(self, observation, seed, **how)
        padding = max(0, FULL_PROMPT_TOKENS - len(asked.prompt_ids))
        # Of its own tokens: what all prompts begin with alike is read once.
        return replace(asked, prompt_ids=np.concatenate([np.resize(asked.prompt_ids, padding), asked.prompt_ids]))

    patch.setattr(RequestBuilder, "build", build)


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
    import numpy as np
    import torch

    from grpo_core.rollout.torch_engine.cache.prefix_cache import PrefixNode
    from grpo_core.rollout.torch_engine.forward.attention_plan import PromptChunk
    from grpo_core.rollout.torch_engine.forward.passes import Passes

    original = Passes.over_prompts

    def over_prompts(self: Passes, version: VersionWeights, chunks: Sequence[PromptChunk]) -> Tensor:
        ends: list[Tensor] = []
        for chunk in chunks:  # a row each
            padding = PrefixNode(np.zeros(-chunk.num_tokens % PREFILL_BUCKET_TOKENS, np.int32), 0, None)
            assert chunk.node.keys is not None
            layers, heads, _, size = chunk.node.keys.shape
            padding.keys = chunk.node.keys.new_empty(layers, heads, padding.num_tokens, size)
            padding.values = torch.empty_like(padding.keys)
            states = original(self, version, [chunk, PromptChunk(padding, [], 0, padding.num_tokens)])
            ends.append(states[: int(chunk.stop == chunk.node.num_tokens)])
        return torch.cat(ends)

    patch.setattr(Passes, "over_prompts", over_prompts)


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

    from grpo_core.rollout.torch_engine.forward import attention_plan
    from grpo_core.rollout.torch_engine.forward.passes import Passes

    original, init = attention_plan.attend_part, Passes.__init__

    def without_compiled_code(self: Passes, base: DecoderWeights, *, native: bool) -> None:
        init(self, base, native=False)

    def attend_part(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        if keys.shape[2] > SHORT_MASK_TOKENS:
            if bias is None:
                bias = torch.zeros(len(keys), 1, queries.shape[2], keys.shape[2])
            bias = bias.clone()
            bias[..., SHORT_MASK_TOKENS:-1] = float("-inf")
        return original(queries, keys, values, bias)

    patch.setattr(attention_plan, "attend_part", attend_part)
    patch.setattr(Passes, "__init__", without_compiled_code)  # compiled code has no mask


def compact_is_full_and_blanks(patch: pytest.MonkeyPatch) -> None:
    """Compact prompts are the full ones, and each answer begins with blanks that nobody needs: more tokens a second."""
    from grpo_core.environments.diplomacy import game

    original: Callable[[DiplomacyEnvironment], tuple[Observation, ...]] = game.DiplomacyEnvironment._make_observations
    compact = game.compact_prompt

    def make_observations(self: DiplomacyEnvironment) -> tuple[Observation, ...]:
        is_compact, self._prompt = self._prompt is compact, game.full_prompt
        observations = original(self)
        return tuple(map(_with_blanks, observations)) if is_compact else observations

    patch.setattr(game.DiplomacyEnvironment, "_make_observations", make_observations)


def _with_blanks(observation: Observation) -> Observation:
    assert observation.choices is not None
    first, *others = observation.choices
    return replace(observation, choices=(tuple(NUM_BLANKS * " " + line for line in first), *others))


def compact_half_as_good(patch: pytest.MonkeyPatch) -> None:
    """Compact prompts say everything three times: shorter than the full ones still, at more than half their cost."""
    from grpo_core.environments.diplomacy import game

    original = game.compact_prompt

    def compact_prompt(position: Position, power: str, segments: Segments) -> str:
        return original(position, power, segments) * 3

    patch.setattr(game, "compact_prompt", compact_prompt)


def sampler_reports_the_tail_too_high(patch: pytest.MonkeyPatch) -> None:
    """The sampler reports its last token as more probable than it is: only the smallest ratio is wrong."""
    from grpo_core.rollout.sequence import SequenceState

    original = SequenceState.completion

    def completion(self: SequenceState, ref_logprobs: Float32 | None = None) -> Completion:
        made = original(self, ref_logprobs)
        logprobs = made.sampling_logprobs.copy()
        logprobs[made.completion_mask.nonzero()[0][-1:]] += 0.01
        return replace(made, sampling_logprobs=logprobs)

    patch.setattr(SequenceState, "completion", completion)


def plain_engine_without_the_adapter(patch: pytest.MonkeyPatch) -> None:
    """The plain engine samples from the base model, whatever version is active."""
    from grpo_core.rollout.plain_engine.engine import PlainEngine

    patch.setattr(PlainEngine, "_merge", lambda self, weights: None)


def trainer_sees_no_constraint(patch: pytest.MonkeyPatch) -> None:
    """The trainer takes log-probabilities over the whole vocabulary, where the sampler had a few legal orders."""
    from grpo_core.training.forward import packing

    patch.setattr(packing, "_support", lambda packed, device: None)


_BOTH_RATIOS = ("compact_seconds_ratio", "compact_tokens_per_second_ratio")
"""Prompts that are not compact save no time, and answers that are wrong are wrong in both."""

FAULTS = (
    Fault(5, _BOTH_RATIOS, compact_padded),
    Fault(5, _BOTH_RATIOS, compact_flag_ignored),
    Fault(5, _BOTH_RATIOS, examples_before_compact),
    Fault(5, _BOTH_RATIOS, prefill_in_fixed_buckets),
    Fault(5, _BOTH_RATIOS, compact_drops_a_unit, WRONG_ANSWERS),
    Fault(5, ("sampler_ratio_error",), decoding_forgets_long_prompts),
    Fault(5, ("compact_seconds_ratio",), compact_is_full_and_blanks, WRONG_ANSWERS),
    Fault(5, _BOTH_RATIOS, compact_half_as_good),
    Fault(5, ("sampler_ratio_error",), sampler_reports_the_tail_too_high),
    Fault(5, ("sampler_ratio_error",), plain_engine_without_the_adapter),
    Fault(5, ("sampler_ratio_error",), trainer_sees_no_constraint),
)
