"""Fixtures of the phases: the run that is judged, stacks of it in an empty home, and its prompts. And how pytest
collects the phases of the installed package."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_grpo.packaged import PACKAGE, node_id_of
from pytest_grpo.settings.applicability import not_applicable
from pytest_grpo.settings.config import PLUGIN_CONFIG, is_xdist_worker

if TYPE_CHECKING:
    from grpo_core.config import GrpoConfig
    from grpo_core.home import Home
    from grpo_core.schedule.stack import LocalStack
    from pytest_grpo.arms import MeasuredArm
    from pytest_grpo.gate.gates import Gate
    from pytest_grpo.settings.thresholds import Threshold

    from .workload import Scale, Workload

BuildStack = Callable[..., "LocalStack"]
GrpoArms = Callable[..., "tuple[MeasuredArm, ...]"]
GrpoThreshold = Callable[[str], "Threshold"]
ReferenceArm = Callable[[], None]
WorkloadFor = Callable[[int, int, int], "Workload"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test of variants runs once for each that the run has; once without any, to say so."""
    if "variant" in metafunc.fixturenames:
        run = metafunc.config.stash[PLUGIN_CONFIG].run
        names = () if run.is_embedded else tuple(run.config().bench.variants)
        metafunc.parametrize("variant", names or [None], ids=names or ["none"])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The embedded default has compact prompts, a run of the user's has variants: one of the two is judged."""
    other = "variant" if config.stash[PLUGIN_CONFIG].run.is_embedded else "game_stacks"
    dropped = [item for item in _own(items) if isinstance(item, pytest.Function) and other in item.fixturenames]
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = [item for item in items if item not in dropped]


def _own(items: Iterable[pytest.Item]) -> Iterator[pytest.Item]:
    """Those of this folder: pytest hands the whole session's to its conftest."""
    return (item for item in items if Path(__file__).parent in item.path.parents)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Phases that run here need the training stack, and a run that can begin: one line says so, not one error per
    test."""
    from grpo_core.extras import install_command, missing_modules

    settings = session.config.stash[PLUGIN_CONFIG]
    if settings.remote is not None or session.config.getoption("collectonly") or not any(_own(session.items)):
        return
    if missing := missing_modules("train"):
        raise pytest.UsageError(
            f"the phases need packages that are not installed: {', '.join(missing)}; run: {install_command('bench')}"
        )
    if not settings.run.is_embedded and not is_xdist_worker(session.config):
        from .checks.own_run import check_run

        check_run(settings.run.config(), settings.system)


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """In the package, a node id that does not depend on where it is installed."""
    if __package__ != PACKAGE:
        return None
    return pytest.Module.from_parent(parent, path=module_path, nodeid=node_id_of(module_path))


@pytest.fixture(scope="session", autouse=True)
def one_vllm(pytestconfig: pytest.Config) -> Iterator[None]:
    """Of a run that samples with vLLM: one start serves all stacks of the same settings."""
    run = pytestconfig.stash[PLUGIN_CONFIG].run
    if run.is_embedded or run.config().rollout.engine != "vllm":
        yield
        return
    from grpo_core.rollout.vllm_engine.kept import kept

    with kept().on():
        yield


@pytest.fixture
def bench_home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """An empty GRPO_HOME."""
    from grpo_core.home import Home

    root = tmp_path_factory.mktemp("grpo")
    return Home(data=root / "data", traces=root / "traces")


@pytest.fixture(scope="session")
def is_embedded(pytestconfig: pytest.Config) -> bool:
    """Whether the phases judge the embedded default, and no run of the user's."""
    return pytestconfig.stash[PLUGIN_CONFIG].run.is_embedded


@pytest.fixture(scope="session")
def run_scale(pytestconfig: pytest.Config, grpo_run: GrpoConfig) -> Scale:
    """How much of the user's run is measured at once."""
    from .workload import scale_of

    return scale_of(grpo_run, pytestconfig.stash[PLUGIN_CONFIG].profile)


@pytest.fixture
def build_stack_for(
    bench_home: Home, request: pytest.FixtureRequest, grpo_gate: Gate, grpo_run: GrpoConfig, is_embedded: bool
) -> Iterator[BuildStack]:
    """Builds a stack of the run under a name, with the settings per section that the test needs: ``training={...}``.

    ``embedded`` has further ones, the sizes of the embedded default. A run of the user's has its own, scaled down.
    With ``beside`` it samples with the engine of that stack, where both need the same settings. Do not train it then.
    """
    system = request.config.stash[PLUGIN_CONFIG].system
    if system != "grpo_core":
        not_applicable(f"it measures the schedule, the environments or the telemetry of grpo_core, not of {system}")
    opened: list[LocalStack] = []

    def build(
        run: str,
        *,
        embedded: Mapping[str, Any] | None = None,
        beside: LocalStack | None = None,
        **needed: dict[str, Any],
    ) -> LocalStack:
        from grpo_core.config import build_config
        from grpo_core.config.values import merged
        from grpo_core.schedule.stack import build_stack

        from .checks import one_engine

        if is_embedded:
            values = merged(embedded or {}, needed)
        else:
            scale: Scale = request.getfixturevalue("run_scale")
            laid_over = merged({"rollout": {"num_groups": scale.num_starts}}, needed)
            grpo_gate.lay_over(laid_over)
            values = merged(grpo_run.settings(), laid_over)
        config = build_config({**values, "run": run})
        if beside is not None and one_engine.takes_engine_of(config, beside.config):
            return one_engine.beside(beside, config)
        opened.append(build_stack(config, bench_home))
        return opened[-1]

    yield build
    for stack in opened:
        stack.close()


@pytest.fixture
def workload_for(request: pytest.FixtureRequest, is_embedded: bool, grpo_run: GrpoConfig) -> WorkloadFor:
    """The prompts to sample from: of the embedded default a number of movement prompts and the sizes that the test
    gives; of a run of the user's its own."""
    from .workload import Workload

    def find(num_prompts: int, group_size: int, max_completion_tokens: int) -> Workload:
        if is_embedded:
            prompts = movement_prompts(compact=True)[:num_prompts]
            return Workload(tuple(prompts), group_size, max_completion_tokens)
        scale: Scale = request.getfixturevalue("run_scale")
        rollout = grpo_run.rollout
        return Workload(scale.prompts, rollout.group_size, rollout.max_completion_tokens)

    return find


@pytest.fixture
def sampling_reference() -> ReferenceArm:
    """The arm ``reference`` of gates that sample: pinned decoding in plain torch."""
    from .plain import reference_rollout

    return reference_rollout()


def movement_prompts(*, compact: bool) -> list[str]:
    """The prompts of the seven powers in the first movement phase of a Diplomacy game."""
    from grpo_core.config import build_config

    from .workload import opening_prompts

    environment = {"name": "diplomacy", "compact_prompts": compact}
    return opening_prompts(build_config({"environment": environment}), 1)[0]
