"""Runs as they leave them: events in a home, with the fields that a training loop emits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grpo_core.config import build_config
from grpo_core.home import Home
from grpo_core.model.tokenizer import Tokenizer
from grpo_core.schedule.samples import SampleFiles
from grpo_core.types import Batch, Completion, Group, RolloutStats, Trajectory

START_S = 1_795_980_000.0
WriteRun = Callable[..., Path]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(data=tmp_path / "data", traces=tmp_path / "traces")


@pytest.fixture
def write_run(home: Home) -> WriteRun:
    """Writes a run of ``num_steps`` steps, one every two seconds, of which half a second is a wait for a batch."""

    def written(name: str = "first", num_steps: int = 4, *, asked: int = 4, is_finished: bool = True) -> Path:
        records: list[dict[str, Any]] = [
            event("run_started", 0.0, preset="tiny", environment="arithmetic", num_steps=asked)
        ]
        for step in range(1, num_steps + 1):
            records += step_events(step)
        if is_finished:
            records.append(event("run_finished", 2.0 * num_steps, num_steps=num_steps, duration_s=2.0 * num_steps))
        path = home.events / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps({**record, "run": name}) + "\n" for record in records)
        return path

    return written


def event(kind: str, at_s: float, **fields: Any) -> dict[str, Any]:
    """``at_s`` seconds after the run began."""
    return {"kind": kind, "time": START_S + at_s, "id": f"a-{at_s}", **fields}


def step_events(step: int) -> list[dict[str, Any]]:
    """The events of step ``step``, which ends 2 s after the one before it and took 1.5 s."""
    end_s = 2.0 * step
    return [
        event("gpu_stats", end_s - 1.0, source="host", device_index=0, device_name="a CPU", utilization_percent=80.0),
        event("adapter_load", end_s - 1.9, version=step - 1, cache_hit=True, load_ms=1.0, swap_ms=2.0),
        event("rollout", end_s - 1.5, batch_index=step - 1, duration_s=0.3, tokens_per_second=100.0 + step,
              num_completion_tokens=30, num_completions=10),
        event("train_step", end_s, step=step, reward_mean=step / 10, reward_std=0.1, loss=0.01, kl=0.0, step_s=1.5,
              publish_ms=200.0, layout_ms=10.0, scoring_ms=0.0, loss_forward_ms=500.0, backward_ms=600.0,
              gradient_sum_ms=0.0, optimizer_ms=90.0, sums_ms=0.0, policy_lag_steps=1, max_policy_lag_steps=2,
              buffer_depth=1, configured_buffer_depth=1),
    ]  # fmt: skip


def store_samples(
    home: Home,
    tokenizer: Tokenizer,
    step: int,
    rewards: list[float],
    prompt: str,
    answer: str,
    *,
    run: str = "r",
    group: str = "g0",
) -> Path:
    """The file that a run keeps of ``step``, which trained on one group."""
    ids = tokenizer.encode(answer)
    turn = Completion(
        prompt_ids=tokenizer.encode(prompt),
        completion_ids=ids,
        completion_mask=np.ones(len(ids), dtype=np.bool_),
        sampling_logprobs=np.zeros(len(ids), dtype=np.float32),
        policy_version=0,
        temperature=1.0,
        finish_reason="stop",
    )
    siblings = Group(group, tuple(Trajectory(group, "solver", (turn,), reward) for reward in rewards))
    files = SampleFiles(build_config({"run": run}), home, tokenizer)
    path = files.write(step, Batch(step - 1, 0, (siblings,), RolloutStats(1.0, 1, 1, 1, 1, 0)))
    assert path is not None
    return path
