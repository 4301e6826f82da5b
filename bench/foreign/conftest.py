"""Which tests of this folder stand in for which, and what they run.

``instead_of`` names the test of the same gates that is for grpo_core only. With another system that one is left out;
with grpo_core the tests of this folder are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_grpo.settings.config import PLUGIN_CONFIG

if TYPE_CHECKING:
    from pytest_grpo.systems.protocol import GrpoSystem, SystemSettings
    from pytest_grpo.systems.run_plan import RunPlan

    from ..conftest import WorkloadFor

FOLDER = Path(__file__).resolve().parent
OWN = "grpo_core"
NUM_PROMPTS, GROUP_SIZE, MAX_TOKENS = 3, 4, 12

BuildSystem = Callable[..., "GrpoSystem"]
PlanFor = Callable[..., "RunPlan"]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "instead_of(name): stands in for this test, which is for grpo_core only")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    foreign = [item for item in items if FOLDER in item.path.resolve().parents]
    if config.stash[PLUGIN_CONFIG].system == OWN:
        left_out = foreign
    else:
        replaced = {name for item in foreign for marker in item.iter_markers("instead_of") for name in marker.args}
        left_out = [item for item in items if item not in foreign and item.name in replaced]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture
def settings(pytestconfig: pytest.Config, tmp_path: Path) -> SystemSettings:
    """As the system's, but for the folder."""
    from pytest_grpo.systems.load import settings_of

    return settings_of(pytestconfig.stash[PLUGIN_CONFIG].run, tmp_path)


@pytest.fixture
def build_system(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BuildSystem]:
    """Builds the system under test anew, with changed settings."""
    from pytest_grpo.systems.load import open_system, settings_of

    plugin = pytestconfig.stash[PLUGIN_CONFIG]
    with ExitStack() as opened:

        def build(**changes: object) -> GrpoSystem:
            settings = settings_of(plugin.run, tmp_path_factory.mktemp("system"), **changes)
            return opened.enter_context(open_system(plugin.system, settings))

        yield build


@pytest.fixture
def plan_for(workload_for: WorkloadFor) -> PlanFor:
    """Makes plans with the run's prompts, and with rewards that differ between siblings."""
    from ..checks.watched_run import plan_of

    def make(**changes: object) -> RunPlan:
        workload = workload_for(NUM_PROMPTS, GROUP_SIZE, MAX_TOKENS)
        sizes = {"group_size": workload.group_size, "max_tokens": workload.max_completion_tokens}
        return plan_of(**({"prompts": workload.prompts} | sizes | changes))

    return make
