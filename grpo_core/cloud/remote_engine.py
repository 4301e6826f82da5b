"""A rollout engine in another process or container. Each prompt's completions are one call."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

from grpo_core.cloud.engine_service import ReadyVersion
from grpo_core.errors import EngineError, GrpoError
from grpo_core.ledger import spans
from grpo_core.rollout.protocol import (
    AdapterSwap,
    EngineCounters,
    GenerationRequest,
    Outcome,
    completions_or_error,
    run_requests,
)
from grpo_core.types import Completion, PolicyVersion

Answer = TypeVar("Answer")
Sample = Callable[[list[GenerationRequest], int], list[Completion | GrpoError]]
Prepare = Callable[[int], ReadyVersion]
MAX_CALLS = 32

logger = logging.getLogger(__name__)


class RemoteEngine:
    """Implements ``RolloutEngine``. ``sample`` and ``prepare`` ask an ``EngineService``, each in a blocking call.

    Requests submitted between two steps are sent together, one call per prompt, at most ``MAX_CALLS`` at once. A call
    that fails because the engine was lost (``is_lost`` of its error) is repeated once. Prefix cache hits are not known
    here: ``num_prefill_tokens`` counts every prompt's tokens.
    """

    def __init__(self, run: str, sample: Sample, prepare: Prepare, is_lost: Callable[[Exception], bool]) -> None:
        self.policy_version = 0
        self.counters = EngineCounters()
        self.num_asked_again = 0
        self.model_fingerprint = ""
        self.scores_in_one_pass = True
        self._run = run
        self._sample = sample
        self._prepare = prepare
        self._is_lost = is_lost
        self._ticket = 0
        self._queued: dict[int, tuple[GenerationRequest, int]] = {}
        self._under_way: dict[Future[list[Completion | GrpoError]], list[int]] = {}
        self._cancelled: set[int] = set()
        self._threads = ThreadPoolExecutor(MAX_CALLS, thread_name_prefix="remote-engine")

    def use_version(self, number: int) -> AdapterSwap:
        with spans.LOAD:
            ready = self._ask(self._prepare, number)
        if number and ready.swap.cache_hit:
            logger.info("Adapter already cached locally: %s", PolicyVersion(self._run, number).name)
        self.counters += EngineCounters(num_adapter_swaps=int(number not in (0, self.policy_version)))
        self.policy_version, self.model_fingerprint = number, ready.model_fingerprint
        self.scores_in_one_pass = ready.scores_in_one_pass
        return ready.swap

    def submit(self, request: GenerationRequest) -> int:
        self._ticket += 1
        self.counters += EngineCounters(num_requests=1)
        version = self.policy_version if request.policy_version is None else request.policy_version
        self._queued[self._ticket] = (request, version)
        return self._ticket

    def step(self) -> list[Outcome]:
        """Send what was submitted and wait until a call has returned.

        Raises:
            EngineError: the engine was lost twice over the same requests.
        """
        self._send()
        while self._under_way:
            with spans.WAIT_ENGINE:
                done, _ = wait(self._under_way, return_when=FIRST_COMPLETED)
            outcomes = [outcome for call in done for outcome in self._outcomes(call)]
            if outcomes:
                return outcomes
        return []

    def cancel(self, ticket: int) -> None:
        if self._queued.pop(ticket, None) is None:
            if ticket in self._cancelled or not any(ticket in tickets for tickets in self._under_way.values()):
                return  # it has ended, or never was
            self._cancelled.add(ticket)
        self.counters += EngineCounters(num_cancelled=1)

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Completion]:
        return completions_or_error(run_requests(self, requests))

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _send(self) -> None:
        together: dict[tuple[bytes, int], list[int]] = {}
        for ticket, (request, version) in self._queued.items():
            together.setdefault((request.prompt_ids.tobytes(), version), []).append(ticket)
        for (_, version), tickets in together.items():
            requests = [self._queued[ticket][0] for ticket in tickets]
            call = self._threads.submit(self._ask, self._sample, requests, version)
            self._under_way[call] = tickets
        self._queued.clear()

    def _ask(self, what: Callable[..., Answer], *arguments: Any) -> Answer:
        try:
            return what(*arguments)
        except Exception as error:
            if not self._is_lost(error):
                raise
            logger.warning("the engine was lost (%s); its requests are asked again", error)
        self.num_asked_again += 1
        try:
            return what(*arguments)
        except Exception as error:
            if not self._is_lost(error):
                raise
            raise EngineError(f"the engine was lost twice over the same requests: {error}") from error

    def _outcomes(self, call: Future[list[Completion | GrpoError]]) -> list[Outcome]:
        tickets = self._under_way.pop(call)
        outcomes = []
        for ticket, result in zip(tickets, call.result(), strict=True):
            if ticket in self._cancelled:
                self._cancelled.discard(ticket)
                if not isinstance(result, GrpoError):
                    self.counters += EngineCounters(num_lost_tokens=len(result.completion_ids))
                continue
            self._count(result)
            outcomes.append(Outcome(ticket, result))
        return outcomes

    def _count(self, result: Completion | GrpoError) -> None:
        if isinstance(result, GrpoError):
            self.counters += EngineCounters(num_failed=1)
            return
        self.counters += EngineCounters(
            num_prefill_tokens=len(result.prompt_ids),
            num_completion_tokens=len(result.completion_ids),
            num_forced_tokens=int((~result.completion_mask).sum()),
        )
