from __future__ import annotations

from grpo_core.telemetry.columns import FIELDS
from grpo_core.telemetry.wandb.names import NAMES
from pytest_grpo.logs.vocabulary.quantities import CYCLE, MEMORY
from pytest_grpo.logs.vocabulary.stacks import OWN_STACK, STACKS

MADE_BY_THE_READER = {"cycle_s", "rollout_s", "memory_used_bytes"}


def test_the_names_of_grpo_core_are_those_of_its_events_and_of_wandb() -> None:
    fields = {*FIELDS["train_step"], *FIELDS["rollout"]}
    logged = {name for names in NAMES.values() for name in names.values()}
    for entry in OWN_STACK.entries:
        of_events, *of_wandb = entry.names
        assert of_events in fields | MADE_BY_THE_READER
        assert set(of_wandb) <= logged
        assert of_wandb or entry.quantity in (CYCLE, MEMORY)
    assert {column for column, _ in OWN_STACK.steps} <= logged


def test_no_quantity_is_twice_in_a_stack() -> None:
    for stack in STACKS:
        quantities = [entry.quantity for entry in stack.entries]
        assert len(quantities) == len(set(quantities))


def test_every_part_and_every_headline_of_a_stack_has_a_name_of_its_own() -> None:
    for stack in STACKS:
        names = [name for entry in stack.entries for name in entry.names]
        assert len(names) == len(set(names))
