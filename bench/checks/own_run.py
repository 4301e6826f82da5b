"""Whether a run of the user's own can begin: one line says why not, before anything long."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from grpo_core.config import GrpoConfig
    from grpo_core.environments import EnvironmentFactory
    from grpo_core.types import Observation


def check_run(config: GrpoConfig, system: str) -> None:
    """Check the environment, the model and, of grpo_core, the engine.

    Raises:
        pytest.UsageError: one of them is not there, cannot be used, or does not fit into the memory; in one line.
    """
    from grpo_core.errors import GrpoError

    try:
        check_environment(config)  # needs no torch, so it answers first
        check_model(config)
        if system == "grpo_core":
            from grpo_core.rollout.engines import check_engine

            check_engine(config)
    except GrpoError as error:
        raise pytest.UsageError(f"grpo: {error}") from None


def environment_factory(config: GrpoConfig) -> EnvironmentFactory:
    """As ``make_environment_factory``; one of the user's own gets the run's tokenizer."""
    from grpo_core.config.packages import is_own
    from grpo_core.environments import make_environment_factory
    from grpo_core.model.tokenizer import load_tokenizer

    wants_tokenizer = is_own(config.environment.name)
    tokenizer = load_tokenizer(config.model.name, add_bos=config.model.add_bos) if wants_tokenizer else None
    return make_environment_factory(config.environment, tokenizer)


def check_environment(config: GrpoConfig) -> None:
    """Play one turn of the run's environment, from its start and from a snapshot, before anything long begins.

    Raises:
        GrpoError: there is no such environment, or its factory raises.
        pytest.UsageError: it raises, acts for nobody, or does not continue from its own snapshot; in one line.
    """
    from grpo_core.errors import GrpoError, first_line

    name, doing = config.environment.name, "the factory"
    factory = environment_factory(config)
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
        doing = "rewards()"
        if copy.done:
            copy.rewards()
    except GrpoError:  # it says itself what is wrong
        raise
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


def check_model(config: GrpoConfig) -> None:
    """Raises ModelError when the run's model is not there or does not fit into the memory."""
    import torch

    from grpo_core.model.memory import check_memory
    from grpo_core.model.policy import resolve_device
    from grpo_core.model.source import read_model_config
    from grpo_core.model.tokenizer import load_tokenizer

    model = config.model
    load_tokenizer(model.name)
    check_memory(model.name, read_model_config(model.name), getattr(torch, model.dtype), resolve_device(model.device))


def num_layer_and_head_weights(model: str) -> tuple[int, int]:
    """Weights that each token goes through, and those that only a token with a loss does."""
    from grpo_core.model.memory import num_parameters
    from grpo_core.model.source import read_model_config

    config = read_model_config(model)
    text = config.get_text_config()
    in_head = text.vocab_size * text.hidden_size
    num_tables = 1 if text.tie_word_embeddings else 2  # the input's rows are looked up, not multiplied
    return num_parameters(model, config) - num_tables * in_head, in_head


def first_answer(observation: Observation) -> str:
    """An answer that is allowed where there are choices; else none at all."""
    return "".join(lines[0] for lines in observation.choices) if observation.choices is not None else ""
