"""One engine for many callers: their requests join one running batch, whatever policy version each asks for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, get_args

from grpo_core.cloud.shared_store import ReloadedAdapterStore
from grpo_core.config import GrpoConfig
from grpo_core.errors import ConfigError, GrpoError
from grpo_core.home import Home
from grpo_core.lora.cache import DEFAULT_MAX_BYTES, LoRACache
from grpo_core.rollout.protocol import AdapterSwap, GenerationRequest, SamplingParams, completions_or_error
from grpo_core.types import Completion, EngineName, PolicyVersion

if TYPE_CHECKING:
    from grpo_core.model.tokenizer import Tokenizer
    from grpo_core.rollout.streaming import StreamingEngine

MAX_CACHED_ADAPTERS = 8
ENGINES = ("auto", *get_args(EngineName))

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ReadyVersion:
    """The answer of ``EngineService.prepare``."""

    swap: AdapterSwap
    model_fingerprint: str
    scores_in_one_pass: bool


class EngineService:
    """Serves the policy versions of ``config.run`` from one copy of the model.

    ``reload`` makes what other containers committed visible here: a run that starts again publishes its versions anew,
    under the same numbers. It is called whenever a version is prepared, once for calls that overlap, and when a sample
    is asked for of a version that is not here.

    Raises:
        ConfigError: ``kind`` is not one of ``ENGINES``.
        GrpoError: a model or package that is not there.
    """

    def __init__(self, config: GrpoConfig, home: Home, reload: Callable[[], None], kind: str = "auto") -> None:
        from grpo_core.model.tokenizer import load_tokenizer
        from grpo_core.rollout.engines import check_engine, open_engine

        config = _with_engine(config, kind)
        check_engine(config)
        logger.info("engine: %s", config.rollout.engine)
        self._config = config
        self._store = ReloadedAdapterStore(home.adapters, reload)
        self._adapters = LoRACache(self._store, DEFAULT_MAX_BYTES, MAX_CACHED_ADAPTERS)
        self.tokenizer: Tokenizer = load_tokenizer(config.model.name, add_bos=config.model.add_bos)
        self._engine = open_engine(config, self.tokenizer.stop_ids, self._adapters, self._store)
        self._streaming: StreamingEngine | None = None
        self._looking = asyncio.Lock()
        self._num_looks = 0  # that began

    async def sample(self, requests: Sequence[GenerationRequest], version: int) -> list[Completion | GrpoError]:
        """A completion or an error for each of ``requests``, in order, all sampled from ``version``.

        Raises:
            AdapterNotFoundError: that version was never published, or was pruned.
        """
        await self._find(version)
        streaming = self._stream()

        async def answer(request: GenerationRequest) -> Completion | GrpoError:
            try:
                return await streaming.complete(replace(request, policy_version=version))
            except GrpoError as error:
                return error

        return await asyncio.gather(*(answer(request) for request in requests))

    async def generate(
        self, prompts: Sequence[str], version: int, max_tokens: int, temperature: float, top_p: float, seed: int
    ) -> list[dict[str, Any]]:
        """One completion per prompt, in order, as plain Python types. Prompt i is sampled with ``seed`` + i.

        Raises:
            AdapterNotFoundError: that version was never published, or was pruned.
            PromptError: a prompt is empty or too long.
        """
        requests = [
            GenerationRequest(
                self.tokenizer.encode_prompt(prompt),
                SamplingParams(seed + index, temperature=temperature, top_p=top_p, max_tokens=max_tokens),
            )
            for index, prompt in enumerate(prompts)
        ]
        await self.prepare(version)
        completions = completions_or_error(await self.sample(requests, version))
        return [
            {
                "text": self.tokenizer.decode(completion.completion_ids),
                "completion_ids": completion.completion_ids.tolist(),
                "sampling_logprobs": completion.sampling_logprobs.tolist(),
                "finish_reason": completion.finish_reason,
                "policy_version": completion.policy_version,
            }
            for completion in completions
        ]

    async def prepare(self, version: int) -> ReadyVersion:
        """Load ``version``, as it is on the volume now, so that requests for it start at once. Raises as ``sample``."""
        if version:
            await self._look_again()
        swap = await self._swap(version)
        return ReadyVersion(swap, self._engine.model_fingerprint, self._engine.scores_in_one_pass)

    async def latest(self) -> int:
        """The newest committed version, 0 without one."""
        await self._look_again()
        newest = self._store.latest(self._config.run)
        return 0 if newest is None else newest.number

    async def close(self) -> None:
        """Abort requests under way and end the engine's threads and processes."""
        if self._streaming is not None:
            await self._streaming.__aexit__(None, None, None)
        await asyncio.to_thread(self._engine.close)

    async def _swap(self, version: int) -> AdapterSwap:
        if version >= self._engine.policy_version:  # the newest version runs with merged weights, older ones beside it
            return await self._stream().use_version(version)
        if version == 0:
            return AdapterSwap(0, cache_hit=True, load_ms=0.0, swap_ms=0.0)
        loaded = await asyncio.to_thread(self._adapters.get, PolicyVersion(self._config.run, version))
        return AdapterSwap(version, cache_hit=loaded.hit, load_ms=loaded.load_ms, swap_ms=0.0)

    async def _find(self, version: int) -> None:
        """Look at the volume again, unless the version is here."""
        wanted = PolicyVersion(self._config.run, version)
        if version and wanted not in self._adapters and wanted not in self._store.versions(self._config.run):
            await self._look_again()

    async def _look_again(self) -> None:
        """Look at the volume, from now on: calls that wait for one look share the next one."""
        wanted = self._num_looks + 1
        async with self._looking:
            if self._num_looks < wanted:
                self._num_looks += 1
                await asyncio.to_thread(self._store.look_again)

    def _stream(self) -> StreamingEngine:
        from grpo_core.rollout.streaming import StreamingEngine

        if self._streaming is None:  # it belongs to the event loop of the first call
            self._streaming = StreamingEngine(self._engine)
        return self._streaming


def _with_engine(config: GrpoConfig, kind: str) -> GrpoConfig:
    """``config`` with this engine. ``auto``: vLLM where it can serve ``config`` on a GPU, else ``config``'s own."""
    if kind not in ENGINES:
        raise ConfigError(f"engine {kind!r}: allowed are {', '.join(ENGINES)}; leave it out for auto")
    if kind == "auto":
        import torch

        can_serve = config.training.method != "full" and find_spec("vllm") is not None
        kind = "vllm" if can_serve and torch.cuda.is_available() else config.rollout.engine
    return config.model_copy(update={"rollout": config.rollout.model_copy(update={"engine": kind})})
