"""A watchdog for a hanging vLLM: how long no iteration may end while a caller waits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from grpo_core.errors import EngineError

if TYPE_CHECKING:
    from grpo_core.rollout.vllm_engine.statistics import IterationStatistics

CHECK_EVERY_S = 1.0
_GRACE_S = 10.0  # lets vLLM's own timeout come first
_LIMIT = "VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS"


class Watchdog:
    """Counts checks in a row without progress: no iteration of vLLM has ended since the previous check.

    It counts checks, not seconds, so that a process that is suspended together with vLLM (Ctrl-Z, a sleeping laptop)
    does not time out. ``limit_s`` is vLLM's own timeout for an iteration of its workers.
    """

    def __init__(self, statistics: IterationStatistics, limit_s: float) -> None:
        self._statistics = statistics
        self._limit_s = limit_s
        self._num_seen = statistics.num_iterations
        self._num_checks = 0

    def check(self) -> None:
        """Call it every ``CHECK_EVERY_S`` while waiting.

        Raises:
            EngineError: no iteration has ended within the limit.
        """
        if self._statistics.num_iterations != self._num_seen:
            self._num_seen, self._num_checks = self._statistics.num_iterations, 0
            return
        self._num_checks += 1
        if self._num_checks * CHECK_EVERY_S > self._limit_s + _GRACE_S:
            raise EngineError(
                f"vLLM's engine process hangs: no step of it has ended within {self._limit_s:.0f} s; start again, a "
                f"training run with --resume, and if its steps take that long, with a larger {_LIMIT}"
            )
