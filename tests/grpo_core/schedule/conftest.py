"""The parts of a small run, and what a run leaves behind."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from grpo_core.config import build_config
from grpo_core.home import Home
from grpo_core.schedule.stack import Stack, build_stack
from tests.grpo_core.schedule import environments
from tests.grpo_core.schedule.run import rollout_threads

MakeStack = Callable[..., Stack]


@pytest.fixture
def make_stack(model_folder: Path, tmp_path: Path) -> MakeStack:
    def make(
        *,
        environment: str = f"{environments.__name__}:chatty",
        home: str = "home",
        num_steps: int = 4,
        lag: int = 0,
        depth: int = 1,
        checkpoint_every: int = 50,
        learning_rate: float = 0.01,
        method: str = "lora",
        max_refill_rounds: int = 0,
        training: Mapping[str, Any] | None = None,
    ) -> Stack:
        config = build_config(
            {
                "run": "run",
                "model": {"name": str(model_folder), "device": "cpu"} | ({"lora_rank": 4} if method == "lora" else {}),
                "environment": {"name": environment},
                "rollout": {
                    "num_groups": 2,
                    "group_size": 2,
                    "max_completion_tokens": 8,
                    "max_refill_rounds": max_refill_rounds,
                },
                "training": {
                    "method": method,
                    "learning_rate": learning_rate,
                    "kl_coefficient": 0.01,
                    **(training or {}),
                },
                "schedule": {
                    "num_steps": num_steps,
                    "max_policy_lag_steps": lag,
                    "buffer_depth": depth,
                    "checkpoint_every_steps": checkpoint_every,
                    "torch_threads": 1,
                },
            }
        )
        return build_stack(config, Home(tmp_path / home / "data", tmp_path / home / "traces"))

    return make


@pytest.fixture
def nothing_is_left() -> Iterator[None]:
    """No rollout thread and no signal handler outlives a run. Under ``nohup`` one of them is ignored before."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    assert rollout_threads() == []
    assert [signal.getsignal(number) for number in numbers] == before
