"""Do the arms compute the same? Checked before they are timed: a faster arm that computes something else is no rival.

This engine samples completions of a few prompts and says how probable each token was; the other arm says so of the same
tokens. Both continue the prompts with the most probable tokens. Where these differ, the other arm must find both
choices as probable.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from bench.rollout_arms.torch_arm import TorchArm
from grpo_core.rollout.protocol import GenerationRequest, SamplingParams
from grpo_core.types import Completion, Float32, Int32

PROMPT_TOKENS = (33, 70, 129)
NUM_TOKENS = 16


@runtime_checkable
class Rival(Protocol):
    """An arm that says what it computes."""

    def greedy(self, prompt: Int32, num_tokens: int) -> Int32: ...

    def logprobs(self, prompt: Int32, completion: Int32) -> Float32: ...


@dataclass(frozen=True, slots=True)
class Tolerance:
    logprob: float  # nats, the largest difference of a token
    tie: float  # nats, between two tokens that count as equally probable


FLOAT32, FLOAT16 = Tolerance(logprob=1e-3, tie=1e-3), Tolerance(logprob=0.1, tie=0.05)
LLAMA_CPP = Tolerance(logprob=1e-2, tie=5e-3)
"""Its flash attention is less exact than float32: 1.5e-3 nats on the preset ``tiny``, and 2e-6 without it."""


@dataclass(frozen=True, slots=True)
class SameAnswers:
    """What was found of an arm whose answers are those of this engine."""

    arm: str
    largest_difference: float  # nats
    num_tokens: int
    num_equal: int  # greedy tokens, before the first tie of each prompt
    num_greedy: int

    def __str__(self) -> str:
        return (
            f"`{self.arm}` against `torch`: log-probabilities of {self.num_tokens} tokens differ by at most "
            f"{self.largest_difference:.1g} nats, and {self.num_equal} of {self.num_greedy} greedy tokens are equal."
        )


def check_agreement(name: str, rival: Rival, ours: TorchArm, vocab_size: int, tolerance: Tolerance) -> SameAnswers:
    """Raises ArithmeticError when the arm ``name`` does not compute what this engine does."""
    rng = np.random.default_rng(0)
    prompts = [rng.integers(0, vocab_size, size, dtype=np.int32) for size in PROMPT_TOKENS]
    ours.next_version()
    sampled = [_continue(ours, prompt, top_k=0) for prompt in prompts]
    differences = [
        np.abs(rival.logprobs(prompt, one.completion_ids) - one.sampling_logprobs).max()
        for prompt, one in zip(prompts, sampled, strict=True)
    ]
    largest = float(np.max(differences))
    if not largest <= tolerance.logprob:  # NaN is no agreement
        raise ArithmeticError(
            f"{name} and torch do not compute the same: log-probabilities differ by {largest:.2g} nats, "
            f"allowed are {tolerance.logprob:g}"
        )
    num_equal = [
        equal_greedy(name, rival, prompt, _continue(ours, prompt, top_k=1).completion_ids, tolerance)
        for prompt in prompts
    ]
    return SameAnswers(name, largest, len(prompts) * NUM_TOKENS, sum(num_equal), len(prompts) * NUM_TOKENS)


def equal_greedy(name: str, rival: Rival, prompt: Int32, ours: Int32, tolerance: Tolerance) -> int:
    """How many greedy tokens are equal, before a tie.

    Raises:
        ArithmeticError: they differ where there is none.
    """
    theirs = rival.greedy(prompt, len(ours))
    if len(theirs) != len(ours):
        raise ArithmeticError(f"{name} gave {len(theirs)} tokens of {len(ours)}")
    unequal = np.flatnonzero(theirs != ours)
    if not len(unequal):
        return len(ours)
    first = int(unequal[0])
    choices = [rival.logprobs(prompt, ids[: first + 1])[-1] for ids in (ours, theirs)]
    gap = abs(float(choices[0]) - float(choices[1]))
    if not gap <= tolerance.tie:
        raise ArithmeticError(
            f"{name} and torch do not compute the same: token {first} of a greedy completion is {theirs[first]} and "
            f"{ours[first]}, {gap:.2g} nats apart; allowed are {tolerance.tie:g}"
        )
    return first


def _continue(ours: TorchArm, prompt: Int32, top_k: int) -> Completion:
    sampling = SamplingParams(seed=0, top_k=top_k, max_tokens=NUM_TOKENS, ignore_stop=True)
    (found,) = ours.engine.generate([GenerationRequest(prompt_ids=prompt, sampling=sampling)])
    return found
