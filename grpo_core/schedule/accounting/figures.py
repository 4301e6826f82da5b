"""The figures of a run, each computed here and nowhere else. docs/metrics.md defines them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from grpo_core.config import GrpoConfig
from grpo_core.hardware import Energy
from grpo_core.ledger import spans
from grpo_core.ledger.account import Account
from grpo_core.schedule.accounting.compilations import Compilations
from grpo_core.schedule.accounting.tokens import TokenLedger
from grpo_core.training.utilization.bandwidth import Reads
from grpo_core.training.utilization.flops import matrix_rate
from grpo_core.types import Batch, RolloutStats, StepMetrics

NUM_RECENT_STEPS = 20
"""Steps per hour are a mean over these."""

DENSE_FLOPS = {
    "B200": 2.25e15, "H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12,
}  # fmt: skip
"""Of NVIDIA's data sheets: bfloat16, without sparsity, of the SXM card where there are several."""


@dataclass(frozen=True, slots=True)
class Devices:
    """What trains: how many devices, and the FLOP per second of one, measured and as its data sheet says."""

    num_devices: int
    rate: float
    data_sheet_rate: float | None
    reads: Reads | None = None  # None where another process decodes

    @classmethod
    def measure(
        cls, device: torch.device, dtype: torch.dtype, num_devices: int, num_decode_bytes: int | None = None
    ) -> Devices:
        """``num_devices`` like ``device``, with the threads that the caller has now. ``num_decode_bytes``: what a
        decode step of this process reads."""
        num_threads = torch.get_num_threads()
        rate = matrix_rate(device, dtype, num_threads)
        of_sheet = _data_sheet_rate(device) if dtype == torch.bfloat16 else None
        reads = None if num_decode_bytes is None else Reads.measure(device, num_decode_bytes, num_threads)
        return cls(num_devices, rate, of_sheet, reads)


class Figures:
    """Computes the figures after each step. The rollout thread tells what it did; each value has one writer."""

    def __init__(self, config: GrpoConfig, devices: Devices, energy: Energy) -> None:
        self._config = config
        self._devices = devices
        self._energy = energy
        self._joules = energy.joules()
        self._ends_s: deque[float] = deque(maxlen=NUM_RECENT_STEPS + 1)
        self._published: tuple[int, float] = (0, 0.0)
        self._publish_to_use_s: float | None = None
        self._sampler_idle_share: float | None = None
        self._decode_bandwidth_share: float | None = None
        self._compilations = Compilations()
        self.last: Mapping[str, float | None] = {}  # of the step before

    def published(self, version: int) -> None:
        """``version`` can be sampled from, as of now."""
        self._published = version, time.perf_counter()

    def in_use(self, version: int) -> None:
        """The rollout thread samples from ``version``, as of now."""
        published, at_s = self._published
        if version == published > 0:
            self._publish_to_use_s = time.perf_counter() - at_s

    def played(self, account: Account, stats: RolloutStats) -> None:
        """The rollout thread's account of its last batch, and what it counted."""
        self._sampler_idle_share = _share(account.idle_s, account.wall_s)
        if self._devices.reads is not None:
            # A GPU decodes while the host goes on. It waits for the device where it draws.
            seconds = sum(account.seconds.get(span.name, 0.0) for span in (spans.DECODE, spans.DRAW))
            self._decode_bandwidth_share = self._devices.reads.share(stats.num_decode_steps, seconds)

    def after_step(
        self, metrics: StepMetrics, batch: Batch, tokens: TokenLedger, account: Account
    ) -> Mapping[str, float | None]:
        """The figures of the step with ``metrics``; ``account`` is the trainer's."""
        self._ends_s.append(time.perf_counter())
        steps_per_hour = self._steps_per_hour()
        num_left = self._config.schedule.num_steps - metrics.step
        sampled, trained = tokens.num_sampled_tokens, tokens.num_trained_tokens
        joules = self._spent_joules()
        price = self._config.telemetry.dollars_per_hour
        self.last = {
            "num_devices": self._devices.num_devices,
            "steps_per_hour": steps_per_hour,
            "eta_s": None if steps_per_hour is None else num_left / steps_per_hour * 3600,
            "sampled_tokens_per_second": _share(sampled, account.wall_s),
            "trained_tokens_per_second": _share(trained, account.wall_s),
            **self._use_of_devices(metrics, account.wall_s),
            "sampler_idle_share": self._sampler_idle_share,
            "trainer_idle_share": _share(account.idle_s, account.wall_s),
            **_lengths(batch),
            **self._engine(batch),
            "decode_bandwidth_share": self._decode_bandwidth_share,
            "num_compilations": self._compilations.num_new(),
            "publish_to_use_s": self._publish_to_use_s,
            "joules_per_1k_tokens": None if joules is None else _share(joules * 1000, trained),
            "dollars_per_1k_tokens": None if price is None else _share(price / 3600 * account.wall_s * 1000, trained),
        }
        return self.last

    def _steps_per_hour(self) -> float | None:
        """None after the first step, which is cold: it does not count."""
        if len(self._ends_s) < 2:
            return None
        return (len(self._ends_s) - 1) / (self._ends_s[-1] - self._ends_s[0]) * 3600

    def _use_of_devices(self, metrics: StepMetrics, wall_s: float) -> dict[str, float | None]:
        possible = wall_s * self._devices.num_devices
        of_sheet = self._devices.data_sheet_rate
        return {
            "mfu": _share(metrics.flops, possible * self._devices.rate),
            "mfu_conventional": _share(metrics.conventional_flops, possible * self._devices.rate),
            "mfu_data_sheet": None if of_sheet is None else _share(metrics.flops, possible * of_sheet),
        }

    def _engine(self, batch: Batch) -> dict[str, float | None]:
        stats, max_rows = batch.stats, self._config.rollout.max_batch_sequences
        return {
            "prefix_hit_share": _share(stats.num_cached_tokens, stats.num_cached_tokens + stats.num_prefill_tokens),
            "kv_used_share": _share(stats.kv_share_steps, stats.num_decode_steps) or None,
            "batch_occupancy": _share(stats.num_decode_rows, stats.num_decode_steps * max_rows),
        }

    def _spent_joules(self) -> float | None:
        """Since the last call."""
        before, self._joules = self._joules, self._energy.joules()
        return None if before is None or self._joules is None else self._joules - before


def _lengths(batch: Batch) -> dict[str, float | None]:
    """The lengths of the completions in the batch, forced tokens included."""
    turns = [turn for group in batch.groups for trajectory in group.trajectories for turn in trajectory.turns]
    lengths = [len(turn.completion_ids) for turn in turns]
    if not lengths:
        return dict.fromkeys(
            ("completion_tokens_p50", "completion_tokens_p95", "completion_tokens_max", "truncated_share", "tail_ratio")
        )
    middle, long, longest = (float(value) for value in np.percentile(lengths, (50, 95, 100)))
    return {
        "completion_tokens_p50": middle,
        "completion_tokens_p95": long,
        "completion_tokens_max": longest,
        "truncated_share": sum(turn.finish_reason == "length" for turn in turns) / len(turns),
        "tail_ratio": _share(longest, middle),
    }


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole > 0 else None


def _data_sheet_rate(device: torch.device) -> float | None:
    if device.type != "cuda":
        return None
    name: Sequence[str] = torch.cuda.get_device_name(device).replace("-", " ").split()
    return next((rate for model, rate in DENSE_FLOPS.items() if model in name), None)
