"""The charts of a run's page: which numbers of which events, in which unit, in which order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from grpo_core.dashboard.columns import Float64, Table
from grpo_core.telemetry.panels.panels import PANELS

Axis = Literal["step", "time"]


@dataclass(frozen=True, slots=True)
class Line:
    """One line: ``field``, divided by ``per`` where given and multiplied with ``factor``."""

    field: str
    label: str
    per: str | None = None
    factor: float = 1.0
    spread: str | None = None
    """A field that is drawn as a band on both sides: a standard deviation."""
    interval: tuple[str, str] | None = None
    """Two fields that are drawn as a band: the lower and the upper end."""
    is_limit: bool = False
    """A setting, drawn thin."""

    @property
    def fields(self) -> set[str]:
        """What it needs of each event."""
        return {name for name in (self.field, self.per, self.spread, *(self.interval or ())) if name}

    def values(self, table: Table) -> Float64:
        with np.errstate(divide="ignore", invalid="ignore"):
            found = table[self.field] * self.factor
            return found if self.per is None else found / table[self.per]


@dataclass(frozen=True, slots=True)
class Chart:
    """Lines of one unit. ``zero`` keeps 0 in sight, which a length needs and a loss does not."""

    id: str
    section: str
    title: str
    unit: str
    kind: str
    x: str
    lines: tuple[Line, ...]
    panel: int | None = None
    zero: bool = False
    note: str = ""

    @property
    def axis(self) -> Axis:
        return "time" if self.x == "time" else "step"


_GIB = 2.0**-30

CHARTS: tuple[Chart, ...] = (
    Chart(
        *("reward", "Learning", "Reward", "reward", "train_step", "step"),
        (Line("reward_mean", "mean", spread="reward_std"),),
        note="Mean of each step's batch; the band is one standard deviation of its trajectories.",
    ),
    Chart(
        *("evaluation", "Learning", "Held-out questions", "%", "evaluation", "step"),
        (
            Line("greedy_passed", "greedy answers", factor=100, interval=("greedy_passed_low", "greedy_passed_high")),
            Line("pass_at_k", "pass@k", factor=100, interval=("pass_at_k_low", "pass_at_k_high")),
        ),
        panel=13,
        zero=True,
        note="The share of the questions that are passed; the bands are 95 % intervals.",
    ),
    Chart(
        *("rewards", "Learning", "Reward functions", "score", "reward", "batch_index"),
        (Line("score_mean", "mean", spread="score_std"),),
        panel=12,
        note="Mean score of each function before its weight; the bands are one standard deviation.",
    ),
    Chart(
        *("loss", "Learning", "Loss", "nats per token", "train_step", "step"),
        (Line("loss", "loss"),),
        note="Near 0 on policy: the advantages of a group sum to 0. Progress shows in the reward.",
    ),
    Chart(
        *("kl", "Learning", "KL", "nats per token", "train_step", "step"),
        (Line("kl", "to the base model"), Line("mismatch_kl", "sampler to trainer")),
    ),
    Chart(*("entropy", "Learning", "Entropy", "nats per token", "train_step", "step"), (Line("entropy", "entropy"),)),
    Chart(
        *("grad", "Learning", "Gradient norm", "norm", "train_step", "step"),
        (Line("grad_norm", "before clipping"),),
        zero=True,
    ),
    Chart(
        *("clip", "Learning", "Clipped tokens", "%", "train_step", "step"),
        (Line("clip_fraction_low", "lower bound", factor=100), Line("clip_fraction_high", "upper bound", factor=100)),
        zero=True,
    ),
    Chart(
        *("step", "Speed", "Step time", "s", "train_step", "step"),
        (Line("step_s", "step"), Line("publish_ms", "of it publishing", factor=1e-3)),
        zero=True,
        note="Training and publishing, without the wait for a batch.",
    ),
    Chart(
        *("rollout", "Speed", "Rollout time", "s", "rollout", "batch_index"), (Line("duration_s", "batch"),), zero=True
    ),
    Chart(
        *("reward_time", "Speed", "Time of the reward functions", "s", "reward", "batch_index"),
        (Line("reward_s", "of a batch"),),
        panel=12,
        zero=True,
    ),
    Chart(
        *("throughput", "Speed", "Inference throughput", "tokens/s", "rollout", "batch_index"),
        (Line("tokens_per_second", "completion tokens"),),
        panel=10,
        zero=True,
    ),
    Chart(
        *("prompts", "Speed", "Tokens per batch", "tokens", "rollout", "batch_index"),
        (
            Line("num_completion_tokens", "completion"),
            Line("num_prompt_tokens", "prompt"),
            Line("num_prefill_tokens", "prefilled"),
        ),
        panel=10,
        zero=True,
    ),
    Chart(
        *("length", "Speed", "Mean completion length", "tokens", "rollout", "batch_index"),
        (Line("num_completion_tokens", "mean", per="num_completions"),),
        zero=True,
    ),
    Chart(
        *("lengths", "Speed", "Completion length", "tokens", "figures", "step"),
        (
            Line("completion_tokens_p50", "median"),
            Line("completion_tokens_p95", "95th percentile"),
            Line("completion_tokens_max", "longest"),
        ),
        zero=True,
    ),
    Chart(
        *("truncated", "Speed", "Truncated answers", "%", "figures", "step"),
        (Line("truncated_share", "cut at the limit", factor=100),),
        zero=True,
    ),
    Chart(
        *("pace", "Speed", "Tokens per second of the run", "tokens/s", "figures", "step"),
        (Line("sampled_tokens_per_second", "sampled"), Line("trained_tokens_per_second", "trained")),
        zero=True,
        note="Per second of wall clock, all devices together.",
    ),
    Chart(
        *("idle", "Speed", "Idle", "%", "figures", "step"),
        (Line("trainer_idle_share", "trainer", factor=100), Line("sampler_idle_share", "sampler", factor=100)),
        zero=True,
    ),
    Chart(
        *("mfu", "Speed", "MFU", "%", "figures", "step"),
        (
            Line("mfu", "of the measured rate", factor=100),
            Line("mfu_conventional", "conventional", factor=100),
            Line("mfu_data_sheet", "of the data sheet", factor=100),
        ),
        zero=True,
    ),
    Chart(
        *("engine", "Speed", "Engine", "%", "figures", "step"),
        (
            Line("batch_occupancy", "batch occupancy", factor=100),
            Line("prefix_hit_share", "prefix-cache hits", factor=100),
            Line("kv_used_share", "KV cache in use", factor=100),
            Line("decode_bandwidth_share", "bandwidth while decoding", factor=100),
        ),
        zero=True,
    ),
    Chart(
        *("publish", "Schedule", "Publish to in use", "s", "figures", "step"),
        (Line("publish_to_use_s", "version"),),
        zero=True,
    ),
    Chart(
        *("lag", "Schedule", "Policy lag", "steps", "train_step", "step"),
        (Line("policy_lag_steps", "lag"), Line("max_policy_lag_steps", "allowed", is_limit=True)),
        panel=11,
        zero=True,
    ),
    Chart(
        *("depth", "Schedule", "Buffer depth", "batches", "train_step", "step"),
        (Line("buffer_depth", "depth"), Line("configured_buffer_depth", "setting", is_limit=True)),
        panel=11,
        zero=True,
    ),
    Chart(
        *("peak", "Schedule", "Peak memory of a step", "GiB", "train_step", "step"),
        (Line("peak_memory_bytes", "trainer", factor=_GIB),),
        zero=True,
        note="Of the step on a GPU; of the process so far on a CPU.",
    ),
    Chart(
        *("use", "Machine", "Use", "%", "gpu_stats", "time"),
        (Line("utilization_percent", "use"),),
        panel=9,
        zero=True,
    ),
    Chart(
        *("memory", "Machine", "Memory in use", "GiB", "gpu_stats", "time"),
        (
            Line("memory_used_bytes", "used", factor=_GIB),
            Line("memory_total_bytes", "there is", factor=_GIB, is_limit=True),
        ),
        panel=9,
        zero=True,
    ),
    Chart(
        *("power", "Machine", "Power", "W", "gpu_stats", "time"), (Line("power_watts", "power"),), panel=9, zero=True
    ),
    Chart(
        *("heat", "Machine", "Temperature", "°C", "gpu_stats", "time"),
        (Line("temperature_celsius", "temperature"),),
        panel=9,
    ),
    Chart(*("clock", "Machine", "Clock", "MHz", "gpu_stats", "time"), (Line("sm_clock_mhz", "SM clock"),), panel=9),
)


def shown_fields() -> dict[str, set[str]]:
    """The fields that the charts need, by kind of event."""
    fields: dict[str, set[str]] = {}
    for chart in CHARTS:
        fields.setdefault(chart.kind, set()).update({chart.x, "time"}, *(line.fields for line in chart.lines))
    return fields


def panels_json() -> Mapping[int, dict[str, str]]:
    """What the panels of the terminal and of Axiom are called, and what they show."""
    return {panel.number: {"title": panel.title, "shows": panel.shows} for panel in PANELS}
