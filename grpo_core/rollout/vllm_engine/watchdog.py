"""How long vLLM may show no sign of life while somebody waits for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from grpo_core.errors import EngineError

if TYPE_CHECKING:
    from grpo_core.rollout.vllm_engine.statistics import IterationStatistics

CHECK_EVERY_S = 1.0
_GRACE_S = 10.0  # vLLM's own error comes first
_LIMIT = "VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS"


class Watchdog:
    """The looks in a row that have seen nothing: no iteration of vLLM has ended since the one before.

    Looks are counted, not seconds: who is stopped together with vLLM (Ctrl-Z, a laptop that sleeps) takes none.
    ``limit_s`` is vLLM's own: after it vLLM gives up an iteration of its workers.
    """

    def __init__(self, statistics: IterationStatistics, limit_s: float) -> None:
        self._statistics = statistics
        self._limit_s = limit_s
        self._num_seen = statistics.num_iterations
        self._num_checks = 0

    def check(self) -> None:
        """To be called every ``CHECK_EVERY_S`` while the answer is not there.

        Raises:
            EngineError: it has lasted too long.
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
