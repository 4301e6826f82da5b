"""The phases, and how their tests are selected.

A test with a phase marker runs only when it is selected: by ``--phase``, by a ``-m`` expression with the marker, or by
its file or node id on the command line. So a plain run stays quick.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True, slots=True)
class Phase:
    """One performance phase of a GRPO training stack."""

    number: int
    title: str
    proves: str

    @property
    def marker(self) -> str:
        return f"phase{self.number}"


PHASES = (
    Phase(0, "baseline", "the harness works: one trainer step leaves a readable trace"),
    Phase(1, "instrumentation", "a snapshot is persisted, gpu_stats are recorded, telemetry costs next to nothing"),
    Phase(2, "rollout throughput", "cached adapters, batching and warm starts pay off"),
    Phase(3, "trainer compute", "one forward pass, no tokenizer, shared prefixes computed once"),
    Phase(4, "scheduling", "rollouts and training overlap within the lag budget"),
    Phase(5, "prompt and engine tuning", "compact prompts raise tokens per second"),
    Phase(6, "observability", "events reach the dashboard panels in time"),
)
PHASE_NUMBERS = {phase.marker: phase.number for phase in PHASES}
PHASE_TABLES = f"{PHASES[0].marker} to {PHASES[-1].marker}"
"""The tables that a thresholds file may have, for error messages."""


def parse_phases(text: str) -> frozenset[int]:
    """The phase numbers of ``2,5`` or ``all``.

    Raises:
        pytest.UsageError: a part is not a phase.
    """
    if text.strip() == "all":
        return frozenset(PHASE_NUMBERS.values())
    numbers = {str(phase.number): phase.number for phase in PHASES}
    parts = [part.strip() for part in text.split(",")]
    if not all(part in numbers for part in parts):
        raise pytest.UsageError(
            f"--phase {text!r}: allowed are 0-{PHASES[-1].number}, comma-separated, or all; try --phase 2,5"
        )
    return frozenset(numbers[part] for part in parts)


def phases_in_expression(expression: str) -> frozenset[int]:
    """The phases that a ``-m`` expression selects: those it names outside of a ``not``.

    An expression that pytest cannot parse selects none; pytest reports it.
    """
    try:
        tree = ast.parse(expression.strip(), mode="eval")
    except SyntaxError:
        return frozenset()
    return frozenset(PHASE_NUMBERS[name] for name in _positive_names(tree.body, positive=True) if name in PHASE_NUMBERS)


def _positive_names(node: ast.AST, *, positive: bool) -> Iterator[str]:
    if isinstance(node, ast.Name):
        if positive:
            yield node.id
        return
    flips = isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not)
    for child in ast.iter_child_nodes(node):
        yield from _positive_names(child, positive=positive != flips)


def phases_of(item: pytest.Item) -> frozenset[int]:
    """The phases of ``item``'s phase markers."""
    return frozenset(PHASE_NUMBERS[marker.name] for marker in item.iter_markers() if marker.name in PHASE_NUMBERS)


def check_markers(item: pytest.Item) -> None:
    """Raises pytest.UsageError when a phase marker of ``item`` has arguments."""
    for marker in item.iter_markers():
        if marker.name in PHASE_NUMBERS and (marker.args or marker.kwargs):
            raise pytest.UsageError(
                f"{item.nodeid}: marker {marker.name} takes no arguments; write @pytest.mark.{marker.name}"
            )


def named_on_command_line(config: pytest.Config) -> tuple[tuple[Path, str], ...]:
    """The files and node ids among the command line's arguments, as (path, rest after the first ``::``)."""
    if config.args_source is not pytest.Config.ArgsSource.ARGS:
        return ()
    split = (argument.partition("::") for argument in config.args)
    named = ((config.invocation_params.dir / path, rest) for path, _, rest in split)
    return tuple((path.resolve(), rest) for path, rest in named if path.is_file())


def is_named(item: pytest.Item, named: Iterable[tuple[Path, str]]) -> bool:
    """Whether ``item`` is one of ``named``, or lies inside one."""
    inside = item.nodeid.partition("::")[2]
    return any(
        item.path.resolve() == path and (not rest or inside == rest or inside.startswith((f"{rest}::", f"{rest}[")))
        for path, rest in named
    )


def select(
    items: Sequence[pytest.Item],
    only: frozenset[int] | None,
    asked: frozenset[int],
    named: Iterable[tuple[Path, str]],
) -> tuple[list[pytest.Item], list[pytest.Item]]:
    """Split ``items`` into those that stay and those to deselect.

    With ``only``, just the tests of those phases stay. Otherwise a test stays if it has no phase, has one of the phases
    in ``asked``, or is ``named``.
    """
    kept: list[pytest.Item] = []
    deselected: list[pytest.Item] = []
    for item in items:
        phases = phases_of(item)
        stays = bool(phases & only) if only is not None else not phases or bool(phases & asked) or is_named(item, named)
        (kept if stays else deselected).append(item)
    return kept, deselected


def without_fixture(items: Sequence[pytest.Item], name: str) -> tuple[list[pytest.Item], list[pytest.Item]]:
    """``items`` that do not use the fixture ``name``, and those that do."""
    without: list[pytest.Item] = []
    users: list[pytest.Item] = []
    for item in items:
        (users if isinstance(item, pytest.Function) and name in item.fixturenames else without).append(item)
    return without, users
