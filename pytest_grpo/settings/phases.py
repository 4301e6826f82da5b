"""The phases, and how their tests are selected.

A test with a phase marker runs only when it is selected: by ``--phase``, by a ``-m`` expression with the marker, by its
file or node id on the command line, or because it failed last and ``--lf`` asks for it. So a plain run stays quick.

Other projects have markers such as ``phase1`` with a meaning of their own. So a marker counts only where the project
opts in, or where the test itself measures.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from _pytest.mark import expression as match_expression  # there is no public way to read a -m expression

from pytest_grpo.packaged import file_of_module, is_package_argument


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


class _OpenQuestionError(Exception):
    """A ``-m`` expression asks whether a test has another marker."""

    def __init__(self, marker: str) -> None:
        super().__init__(marker)
        self.marker = marker


def phases_in_expression(expression: str) -> frozenset[int]:
    """The phases that a ``-m`` expression asks for: those whose marker makes it select a test.

    ``phase2 and not slow`` asks for phase 2, ``not slow`` and ``not phase2`` ask for none. An expression that pytest
    cannot parse asks for none; pytest reports it.
    """
    named = {marker: number for marker, number in PHASE_NUMBERS.items() if marker in expression}
    if not named:
        return frozenset()
    try:
        compiled = match_expression.Expression.compile(expression)
    except _PARSE_ERRORS:
        return frozenset()
    return frozenset(number for marker, number in named.items() if _asks_for(compiled, marker, {}))


_PARSE_ERRORS: tuple[type[Exception], ...] = (SyntaxError, vars(match_expression).get("ParseError", SyntaxError))
"""pytest 8 has an exception of its own."""


def _asks_for(expression: match_expression.Expression, marker: str, others: Mapping[str, bool]) -> bool:
    """Whether ``expression`` selects a test with ``marker`` and the same test without it does not.

    ``others`` says which other markers the test has. Those that it does not name are tried both ways.
    """

    def selects(has_marker: bool) -> bool:
        def matches(name: str, /, **arguments: str | int | bool | None) -> bool:
            if name == marker:
                return has_marker
            other = f"{name}{arguments}"
            if other not in others:
                raise _OpenQuestionError(other)
            return others[other]

        return expression.evaluate(matches)

    try:
        return selects(True) and not selects(False)
    except _OpenQuestionError as question:
        return any(_asks_for(expression, marker, {**others, question.marker: has}) for has in (False, True))


FIXTURES = ("grpo_gate", "grpo_arms", "grpo_threshold", "grpo_run", "grpo_system_name", "grpo_system", "grpo_versus")
"""The plugin's fixtures."""
CLAIMS_MARKERS = pytest.StashKey[bool]()
"""Whether the project opts in to the phase markers (``PluginConfig.claims_markers``)."""


def is_gate(item: pytest.Item) -> bool:
    """Whether ``item`` uses a fixture or the threshold marker of this plugin."""
    if item.get_closest_marker("grpo_threshold") is not None:
        return True
    return isinstance(item, pytest.Function) and any(name in item.fixturenames for name in FIXTURES)


def phases_of(item: pytest.Item) -> frozenset[int]:
    """The phases of ``item``'s phase markers; none if the markers are the project's own."""
    phases = frozenset(PHASE_NUMBERS[marker.name] for marker in item.iter_markers() if marker.name in PHASE_NUMBERS)
    return phases if phases and (item.config.stash[CLAIMS_MARKERS] or is_gate(item)) else frozenset()


def check_markers(item: pytest.Item) -> None:
    """Raises pytest.UsageError when a phase marker of ``item`` has arguments."""
    if not phases_of(item):
        return
    for marker in item.iter_markers():
        if marker.name in PHASE_NUMBERS and (marker.args or marker.kwargs):
            raise pytest.UsageError(
                f"{item.nodeid}: marker {marker.name} takes no arguments; write @pytest.mark.{marker.name}"
            )


def named_on_command_line(config: pytest.Config) -> tuple[tuple[Path, str], ...]:
    """The files, modules and node ids among the command line's arguments, as (path, rest after the first ``::``)."""
    if config.args_source is not pytest.Config.ArgsSource.ARGS:
        return ()
    named: list[tuple[Path, str]] = []
    for argument in config.args:
        text, _, rest = argument.partition("::")
        is_module = config.getoption("pyargs") and is_package_argument(text)
        named.append((file_of_module(text) if is_module else config.invocation_params.dir / text, rest))
    return tuple((path.resolve(), rest) for path, rest in named if path.is_file())


def missing_arguments(config: pytest.Config) -> list[str]:
    """The files among the command line's arguments that do not exist."""
    if config.args_source is not pytest.Config.ArgsSource.ARGS:
        return []
    folder = config.invocation_params.dir
    return [argument for argument in config.args if not (folder / argument.partition("::")[0]).exists()]


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
    failed: frozenset[str],
) -> tuple[list[pytest.Item], list[pytest.Item]]:
    """Split ``items`` into those that stay and those to deselect.

    With ``only``, just the tests of those phases stay. Otherwise a test stays if it has no phase, has one of the phases
    in ``asked``, is ``named``, or is among the node ids that ``failed`` last.
    """
    kept: list[pytest.Item] = []
    deselected: list[pytest.Item] = []
    for item in items:
        phases = phases_of(item)
        is_wanted = not phases or bool(phases & asked) or item.nodeid in failed or is_named(item, named)
        stays = is_wanted if only is None else bool(phases & only)
        (kept if stays else deselected).append(item)
    return kept, deselected


def last_failed(config: pytest.Config) -> frozenset[str]:
    """The node ids of the tests that failed last, if ``--lf``, ``--ff`` or ``--sw`` asks for them; else none."""
    if not config.pluginmanager.has_plugin("cacheprovider"):
        return frozenset()
    failed: set[str] = set()
    if config.getoption("lf") or config.getoption("failedfirst"):
        failed.update(config.cache.get("cache/lastfailed", {}))
    if config.getoption("stepwise", False):
        stored = config.cache.get("cache/stepwise", {})
        if isinstance(stored, dict) and stored.get("last_failed"):
            failed.add(stored["last_failed"])
    return frozenset(failed)


def without_fixture(items: Sequence[pytest.Item], name: str) -> tuple[list[pytest.Item], list[pytest.Item]]:
    """``items`` that do not use the fixture ``name``, and those that do."""
    without: list[pytest.Item] = []
    users: list[pytest.Item] = []
    for item in items:
        (users if isinstance(item, pytest.Function) and name in item.fixturenames else without).append(item)
    return without, users
