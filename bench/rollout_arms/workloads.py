"""Workloads of the arms: random prompts, and Diplomacy prompts with their legal orders."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from bench.rollout_arms.arm import Segments, Workload
from grpo_core.environments.diplomacy.game import DiplomacyEnvironment
from grpo_core.model.tokenizer import Tokenizer
from grpo_core.types import Observation

HORIZON_YEARS = 10


def free_workload(
    rng: np.random.Generator, num_groups: int, group_size: int, num_prompt_tokens: int, num_tokens: int, vocab_size: int
) -> Workload:
    """New prompts of random tokens, each with a different first token."""
    prompts = rng.integers(0, vocab_size, (num_groups, num_prompt_tokens), dtype=np.int32)
    prompts[:, 0] = rng.choice(vocab_size, num_groups, replace=False)
    return Workload(tuple(prompts), group_size, num_tokens, seed=int(rng.integers(1 << 31)))


class OrderWorkloads:
    """Movement phases of games with random orders, with full prompts.

    Raises:
        MissingPackageError: the package diplomacy is not installed.
    """

    def __init__(self, tokenizer: Tokenizer, rng: np.random.Generator) -> None:
        self._tokenizer = tokenizer
        self._rng = rng
        self._environment = DiplomacyEnvironment(horizon=HORIZON_YEARS)
        self._observations = self._play()

    def next(self, num_groups: int, group_size: int) -> Workload:
        """The workload of the next ``num_groups`` powers; ``num_tokens`` is the length of the longest answer."""
        observations = list(itertools.islice(self._observations, num_groups))
        orders = tuple(map(self._segments, observations))
        return Workload(
            prompts=tuple(self._tokenizer.encode(observation.prompt) for observation in observations),
            group_size=group_size,
            num_tokens=max(sum(max(map(len, lines)) for lines in segments) for segments in orders),
            seed=int(self._rng.integers(1 << 31)),
            orders=orders,
        )

    def _play(self) -> Iterator[Observation]:
        environment = self._environment
        while True:
            environment.reset(0)
            while not environment.done:
                observations = environment.observe()
                if environment.position.kind == "movement":  # in other phases few powers give orders
                    yield from observations
                environment.step({observation.agent: self._any_answer(observation) for observation in observations})

    def _any_answer(self, observation: Observation) -> str:
        assert observation.choices is not None
        return "".join(lines[self._rng.integers(len(lines))] for lines in observation.choices)

    def _segments(self, observation: Observation) -> Segments:
        assert observation.choices is not None
        return tuple(
            tuple(tuple(self._tokenizer.encode(line).tolist()) for line in lines) for lines in observation.choices
        )
