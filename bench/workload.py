"""What is measured of a run: its own prompts and answers, as many whole groups as a sample has time for.

Legend: G completions of a prompt, P tokens of a prompt, R tokens of a completion.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

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
    from grpo_core.environments import make_environment_factory

    factory = make_environment_factory(config.environment)
    found = []
    for seed in range(num_starts):
        environment = factory()
        environment.reset(seed)
        found.append([observation.prompt for observation in environment.observe()])
    return found


def check_environment(config: GrpoConfig) -> None:
    """Play one turn of the run's environment, from its start and from a snapshot, before anything long begins.

    Raises:
        pytest.UsageError: it raises, acts for nobody, or does not continue from its own snapshot; in one line.
    """
    from grpo_core.environments import make_environment_factory
    from grpo_core.model.source import first_line

    name, doing = config.environment.name, "the factory"
    factory = make_environment_factory(config.environment)
    try:
        environment, copy = factory(), factory()
        doing = "reset()"
        environment.reset(0)
        doing = "observe()"
        seen = environment.observe()
        doing = "snapshot() and restore()"
        copy.restore(environment.snapshot())
        restored = copy.observe()
        doing = "step() after restore()"
        copy.step({observation.agent: first_answer(observation) for observation in restored})
    except Exception as error:  # the user's own code may raise anything
        raise pytest.UsageError(
            f"environment {name!r}: {doing} raises {type(error).__name__}: {first_line(error)}; correct it"
        ) from error
    if not seen:
        raise pytest.UsageError(f"environment {name!r}: observe() after reset(0) is empty; an episode needs a turn")
    if [observation.prompt for observation in restored] != [observation.prompt for observation in seen]:
        raise pytest.UsageError(
            f"environment {name!r}: after restore() of its own snapshot it shows another prompt; put all that "
            "observe() needs into snapshot()"
        )


def first_answer(observation: Observation) -> str:
    """An answer that is allowed where there are choices; else none at all."""
    return "".join(lines[0] for lines in observation.choices) if observation.choices is not None else ""


def scale_of(config: GrpoConfig, profile: DeviceProfile) -> Scale:
    """As many whole starting states of the run as ``MAX_SAMPLE_FLOP`` allows, at least one.

    It follows from the configuration alone, so both arms of a gate and every run of it measure the same.
    """
    from grpo_core.model.tokenizer import load_tokenizer

    check_environment(config)
    rollout, tokenizer = config.rollout, load_tokenizer(config.model.name)
    starts = opening_prompts(config, min(rollout.num_groups, MAX_OPENINGS))
    flop_per_token = TRAINED_FLOP * num_parameters(config.model.name)
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


def num_parameters(model: str) -> int:
    """Of a preset, a folder or a hub id, from its configuration alone."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from grpo_core.model.source import locate_model

    with torch.device("meta"):
        built = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(locate_model(model)))
    return sum(parameter.numel() for parameter in built.parameters())
