"""What is measured of a run: its own prompts and answers, as many whole groups as a sample has time for.

Legend: G completions of a prompt, P tokens of a prompt, R tokens of a completion.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from grpo_core.config import GrpoConfig
    from grpo_core.types import Observation
    from pytest_grpo.settings.device import DeviceProfile

MAX_SAMPLE_FLOP: dict[DeviceProfile, float] = {"cpu": 4e10, "gpu": 2e13}
"""Of one sample of an arm: about half a second, so that a gate has time for its pairs."""
TRAINED_FLOP = 6
"""Operations per token and parameter, forward and backward (Kaplan et al. 2020, section 2.1)."""
MAX_OPENINGS = 256
"""Starting states that are looked at for prompts."""


@dataclass(frozen=True, slots=True)
class Workload:
    """The opening prompts of a run, and what is sampled of each."""

    prompts: tuple[str, ...]
    group_size: int
    max_completion_tokens: int


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of a batch of the run is measured at once."""

    prompts: tuple[str, ...]
    num_starts: int
    """Starting states, at most those of the run's batch. Each gives a group or more."""


def opening_prompts(config: GrpoConfig, num_starts: int) -> list[list[str]]:
    """The prompts of each of the first ``num_starts`` starting states: one per agent that acts.

    Raises:
        ConfigError: there is no such environment.
    """
    from .checks.own_run import environment_factory

    factory = environment_factory(config)
    found = []
    for seed in range(num_starts):
        environment = factory()
        environment.reset(seed)
        found.append([_prompt_text(observation, config) for observation in environment.observe()])
    return found


def _prompt_text(observation: Observation, config: GrpoConfig) -> str:
    """What the policy reads: a chat as the model's template writes it."""
    from grpo_core.model.tokenizer import load_tokenizer

    if observation.messages is None:
        return observation.prompt
    tokenizer = load_tokenizer(config.model.name, add_bos=config.model.add_bos)
    return tokenizer.chat(config.rollout.chat_template_arguments).prompt(observation.messages)


def scale_of(config: GrpoConfig, profile: DeviceProfile) -> Scale:
    """As many whole starting states of the run as ``MAX_SAMPLE_FLOP`` allows, at least one.

    It follows from the configuration alone, so both arms of a gate and every run of it measure the same.
    """
    from grpo_core.model.memory import num_parameters
    from grpo_core.model.source import read_model_config
    from grpo_core.model.tokenizer import load_tokenizer

    from .checks.own_run import check_environment

    check_environment(config)
    rollout, tokenizer = config.rollout, load_tokenizer(config.model.name)
    starts = opening_prompts(config, min(rollout.num_groups, MAX_OPENINGS))
    flop_per_token = TRAINED_FLOP * num_parameters(config.model.name, read_model_config(config.model.name))
    limit, spent, num_starts = MAX_SAMPLE_FLOP[profile], 0.0, 0
    for prompts in starts:
        num_tokens = sum(
            len(tokenizer.encode(prompt)) + rollout.group_size * rollout.max_completion_tokens for prompt in prompts
        )
        spent += flop_per_token * config.environment.horizon * num_tokens
        if num_starts and spent > limit:
            break
        num_starts += 1
    return Scale(tuple(itertools.chain.from_iterable(starts[:num_starts])), num_starts)
