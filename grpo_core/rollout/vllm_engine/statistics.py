"""vLLM's own metrics, summed over its iterations."""

from __future__ import annotations

from typing import Any

from vllm.v1.metrics.loggers import StatLoggerBase  # pyright: ignore[reportMissingImports]


class IterationStatistics(StatLoggerBase):
    """Sums over vLLM's iterations. Written by its event loop, read by anyone."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin anew, as if vLLM had just started."""
        self.num_iterations = 0  # that have ended, also without a token
        self.num_decode_steps = 0  # iterations that decoded
        self.num_decode_rows = 0  # requests that decoded, summed over the iterations
        self.num_generated_tokens = 0
        self.num_preemptions = 0  # requests that were evicted from the KV cache and recomputed
        self.busy_s = 0.0  # wall time of the iterations, without idle time
        self.kv_cache_share = 0.0  # share of the KV cache that requests hold after the last iteration
        self.kv_share_steps = 0.0  # the same, summed over the iterations that decoded
        self._last_s: float | None = None

    @property
    def tokens_per_second(self) -> float:
        return self.num_generated_tokens / self.busy_s if self.busy_s > 0 else 0.0

    def begin(self, now_s: float) -> None:
        """A request arrives at ``now_s``: an idle clock starts there."""
        if self._last_s is None:
            self._last_s = now_s

    def record(
        self, scheduler_stats: Any, iteration_stats: Any, mm_cache_stats: object = None, engine_idx: int = 0
    ) -> None:
        self.num_iterations += 1
        if iteration_stats is None:
            return
        self.num_generated_tokens += iteration_stats.num_generation_tokens
        num_rows = len(iteration_stats.inter_token_latencies_iter)
        self.num_decode_steps += bool(num_rows)
        self.num_decode_rows += num_rows
        self.num_preemptions += iteration_stats.num_preempted_reqs
        now_s = iteration_stats.iteration_timestamp
        if self._last_s is not None:
            self.busy_s += max(0.0, now_s - self._last_s)
        if scheduler_stats is not None:
            self.kv_cache_share = scheduler_stats.kv_cache_usage
            self.kv_share_steps += scheduler_stats.kv_cache_usage * bool(num_rows)
            num_left = scheduler_stats.num_running_reqs + scheduler_stats.num_waiting_reqs
            self._last_s = now_s if num_left else None

    def log_engine_initialized(self) -> None:
        pass
