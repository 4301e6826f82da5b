"""The figures of a run are what docs/metrics.md says, by numbers that are worked out here."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from grpo_core.config import build_config
from grpo_core.hardware import Energy
from grpo_core.ledger.account import Account
from grpo_core.schedule.accounting import figures as figures_module
from grpo_core.schedule.accounting.compilations import Compilations
from grpo_core.schedule.accounting.figures import Devices, Figures
from grpo_core.schedule.accounting.tokens import TokenLedger
from grpo_core.schedule.loop import train
from grpo_core.schedule.stack import Stack
from grpo_core.telemetry.columns import FIELDS, FIGURES
from grpo_core.telemetry.events import Telemetry
from grpo_core.telemetry.jsonl import JsonlSink
from grpo_core.training.utilization.bandwidth import Reads, read_rate
from grpo_core.types import Batch, Completion, FinishReason, Group, RolloutStats, StepMetrics, Trajectory

MakeStack = Callable[..., Stack]

WALL_S = 4.0
RATE = 1e9


class Meter(Energy):
    """Uses 30 J between two readings."""

    def __init__(self) -> None:
        self._joules = 0.0

    def joules(self) -> float | None:
        self._joules += 30.0
        return self._joules


def make_batch() -> Batch:
    lengths: list[tuple[int, FinishReason]] = [(2, "stop"), (4, "stop"), (4, "stop"), (20, "length")]
    trajectories = tuple(
        Trajectory("0", "solver", (_completion(num_tokens, reason),), 0.0) for num_tokens, reason in lengths
    )
    stats = RolloutStats(
        1.0, 0, 30, 30, 4, num_sampled_tokens=40, num_cached_tokens=90, num_decode_steps=20, num_decode_rows=40,
        kv_share_steps=5.0,
    )  # fmt: skip
    return Batch(0, 0, (Group("0", trajectories),), stats)


def _completion(num_tokens: int, reason: FinishReason) -> Completion:
    ids = np.zeros(num_tokens, dtype=np.int32)
    return Completion(ids[:1], ids, ids == 0, ids.astype(np.float32), 0, 1.0, reason)


def make_metrics(step: int, stack: Stack) -> StepMetrics:
    from dataclasses import replace

    (report,) = train(stack, Telemetry("run", [])).reports
    return replace(report.metrics, step=step, flops=1e9, conventional_flops=1e10)


@pytest.fixture
def metrics(make_stack: MakeStack) -> StepMetrics:
    return make_metrics(1, make_stack(num_steps=1))


def test_figures_follow_their_formulas(metrics: StepMetrics, monkeypatch: pytest.MonkeyPatch) -> None:
    times_s = iter([100.0, 103.0, 104.0, 106.0])
    monkeypatch.setattr(figures_module.time, "perf_counter", lambda: next(times_s))
    config = build_config(
        {
            "run": "run",
            "rollout": {"max_batch_sequences": 8},
            "schedule": {"num_steps": 11},
            "telemetry": {"dollars_per_hour": 9.0},
        }
    )
    figures = Figures(config, Devices(2, RATE, 4 * RATE, Reads(100, 1e3)), Meter())
    tokens = TokenLedger(40, 10, 10, 5, 5, 4, 3, 3)
    account = Account("trainer-0", "train", 0.0, WALL_S, {"wait.batch": 1.0, "wait.processes": 0.5, "other": 2.5})
    figures.published(1)
    figures.in_use(1)
    played = {"wait.room": 2.5, "sample.decode": 3.0, "sample.draw": 1.0}
    figures.played(Account("trainer-0", "rollout", 0.0, 10.0, played), make_batch().stats)
    first = figures.after_step(metrics, make_batch(), tokens, account)
    assert first["steps_per_hour"] is first["eta_s"] is None  # it is cold
    found = figures.after_step(metrics, make_batch(), tokens, account)

    assert found == pytest.approx(
        {
            "num_devices": 2,
            "steps_per_hour": 1800.0,  # 2 s between two ends
            "eta_s": 20.0,
            "sampled_tokens_per_second": 10.0,
            "trained_tokens_per_second": 2.5,
            "mfu": 1e9 / (WALL_S * 2 * RATE),
            "mfu_conventional": 1e10 / (WALL_S * 2 * RATE),
            "mfu_data_sheet": 1e9 / (WALL_S * 2 * 4 * RATE),
            "sampler_idle_share": 0.25,
            "trainer_idle_share": 1.5 / WALL_S,
            "completion_tokens_p50": 4.0,
            "completion_tokens_p95": float(np.percentile([2, 4, 4, 20], 95)),
            "completion_tokens_max": 20.0,
            "truncated_share": 0.25,
            "tail_ratio": 5.0,
            "prefix_hit_share": 0.75,
            "kv_used_share": 0.25,
            "batch_occupancy": 0.25,
            "decode_bandwidth_share": 20 * 100 / (4.0 * 1e3),
            "num_compilations": 0,
            "publish_to_use_s": 3.0,
            "joules_per_1k_tokens": 3000.0,
            "dollars_per_1k_tokens": 1.0,
        }
    )


def test_a_run_has_the_figures_of_every_step(make_stack: MakeStack, tmp_path: Path) -> None:
    """All that a CPU can say, and none of them where it would be impossible."""
    path = tmp_path / "events.jsonl"
    with Telemetry("run", [JsonlSink(path)]) as telemetry:
        train(make_stack(num_steps=4, lag=1), telemetry)
    events = [json.loads(line) for line in path.read_text().splitlines()]
    found = [event for event in events if event["kind"] == "figures"]
    assert [event["step"] for event in found] == [1, 2, 3, 4]
    missing = {"mfu_data_sheet", "joules_per_1k_tokens", "dollars_per_1k_tokens"}
    for event in found[1:]:
        assert {name for name in FIGURES if event[name] is None} == missing
        check_shares(event)
    assert found[0]["steps_per_hour"] is None
    assert found[-1]["eta_s"] == 0
    assert all(event["num_read_bytes"] == 0 for event in events if event["kind"] == "rollout")


def check_shares(event: Mapping[str, Any]) -> None:
    for name in ("mfu", "sampler_idle_share", "trainer_idle_share", "truncated_share", "prefix_hit_share"):
        assert 0 <= event[name] <= 1, name
    assert 0 < event["batch_occupancy"] <= 1
    assert 0 < event["kv_used_share"] <= 1
    assert 0 < event["decode_bandwidth_share"] <= 1
    assert event["num_compilations"] == 0  # nothing is compiled on a CPU
    assert event["mfu"] < event["mfu_conventional"]
    assert event["completion_tokens_p50"] <= event["completion_tokens_p95"] <= event["completion_tokens_max"]


def test_each_figure_has_a_column_and_a_line_in_the_docs() -> None:
    page = Path("docs/metrics.md").read_text(encoding="utf-8")
    assert set(FIELDS["figures"]) == {"step", "num_devices", *FIGURES}
    for name in FIGURES:
        assert f"`{name}`" in page or f"`_{name.rpartition('_')[2]}`" in page, name


def test_the_data_sheet_counts_for_its_own_number_type() -> None:
    measured = Devices.measure(torch.device("cpu"), torch.float32, 3)
    assert (measured.num_devices, measured.data_sheet_rate) == (3, None)
    assert measured.rate > 1e8


def test_an_engine_in_another_process_has_no_share_of_the_bandwidth(metrics: StepMetrics) -> None:
    figures = Figures(build_config({"run": "run"}), Devices(1, RATE, None), Meter())
    figures.played(Account("trainer-0", "rollout", 0.0, 10.0, {"wait.engine": 9.0}), make_batch().stats)
    account = Account("trainer-0", "train", 0.0, WALL_S, {"other": WALL_S})
    found = figures.after_step(metrics, make_batch(), TokenLedger(40, 10, 10, 5, 5, 4, 3, 3), account)
    assert found["decode_bandwidth_share"] is None


def test_the_share_of_the_bandwidth_is_of_the_measured_rate() -> None:
    """Two passes over the weights in the time of four are a half."""
    reads = Reads.measure(torch.device("cpu"), 8 << 20, torch.get_num_threads())
    assert reads.rate == read_rate(torch.device("cpu"), 8 << 20, torch.get_num_threads()) > 1e7
    assert reads.share(0, 1.0) is reads.share(3, 0.0) is None
    assert reads.share(2, 4 * reads.num_bytes / reads.rate) == pytest.approx(0.5)


def test_compilations_are_counted() -> None:
    counted = Compilations()
    compiled = torch.compile(lambda x: x + 1, backend="eager", dynamic=False)
    compiled(torch.ones(2))
    first = counted.num_new()
    compiled(torch.ones(2))
    again = counted.num_new()
    compiled(torch.ones(3))
    other_shape = counted.num_new()
    assert (first, again, other_shape) == (1, 0, 1)
