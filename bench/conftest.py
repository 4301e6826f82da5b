"""What the phases measure with: stacks of the tiny preset in a home of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from grpo_core.home import Home
    from grpo_core.schedule.stack import Stack

BuildStack = Callable[..., "Stack"]


@pytest.fixture
def bench_home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """An empty GRPO_HOME."""
    from grpo_core.home import Home

    root = tmp_path_factory.mktemp("grpo")
    return Home(data=root / "data", traces=root / "traces")


@pytest.fixture
def build_stack_for(bench_home: Home) -> BuildStack:
    """A stack of ``run`` with these settings per section, e.g. ``rollout={"group_size": 4}``."""

    def build(run: str, **sections: dict[str, Any]) -> Stack:
        from grpo_core.config import build_config
        from grpo_core.schedule.stack import build_stack

        return build_stack(build_config({"run": run, **sections}), bench_home)

    return build
