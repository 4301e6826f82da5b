"""vLLM's ``AsyncLLM`` on an event loop in its own thread, with one asyncio task per request."""

from __future__ import annotations

import asyncio
import itertools
import signal
import threading
import time
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from vllm import envs  # pyright: ignore[reportMissingImports]
from vllm.engine.arg_utils import AsyncEngineArgs  # pyright: ignore[reportMissingImports]
from vllm.exceptions import VLLMClientError, VLLMError  # pyright: ignore[reportMissingImports]
from vllm.usage.usage_lib import UsageContext  # pyright: ignore[reportMissingImports]
from vllm.v1.engine.async_llm import AsyncLLM  # pyright: ignore[reportMissingImports]
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError  # pyright: ignore[reportMissingImports]

from grpo_core.errors import EngineError, GrpoError
from grpo_core.rollout.vllm_engine.adapters import LoadedAdapter
from grpo_core.rollout.vllm_engine.head_size import check_head_size
from grpo_core.rollout.vllm_engine.job import Ended, Job
from grpo_core.rollout.vllm_engine.job_runner import JobRunner, lora_request
from grpo_core.rollout.vllm_engine.processes import bind_processes
from grpo_core.rollout.vllm_engine.records import RecordFetcher
from grpo_core.rollout.vllm_engine.statistics import IterationStatistics
from grpo_core.rollout.vllm_engine.watchdog import CHECK_EVERY_S, Watchdog

T = TypeVar("T")
_SHUTDOWN_S = 30.0  # then vLLM kills what still runs
_PACKAGE = "grpo_core.rollout.vllm_engine"
_DEAD = (
    "vLLM's engine process has died; its own output says why. Start again, a training run with --resume, perhaps with "
    "a smaller rollout.max_batch_sequences"
)


class VllmClient:
    """Starts vLLM and runs jobs.

    Raises:
        GrpoError: vLLM does not start.
    """

    def __init__(self, options: dict[str, Any], stop_ids: Sequence[int]) -> None:
        self.statistics = IterationStatistics()
        self.tickets = itertools.count(1)  # no two jobs have the same one, of whichever engines
        self.adapter_ids = itertools.count(1)
        self.model_context_tokens = 0
        self._ended: SimpleQueue[Ended | BaseException] = SimpleQueue()
        self._failure: BaseException | None = None
        self._tasks: dict[int, asyncio.Task[Ended]] = {}
        self._records = RecordFetcher(self._take_records)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run_loop, name="vllm-client", daemon=True)
        self._thread.start()
        try:
            self._llm = self._wait(self._start_vllm(options))
        except GrpoError:
            self._stop_loop()
            raise
        except (RuntimeError, ValueError, OSError, VLLMError) as error:
            self._stop_loop()
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise EngineError(f"vLLM does not start ({reason}); its own output says why") from error
        self._runner = JobRunner(self._llm, self._records, stop_ids)
        self.max_context_tokens: int = self._llm.vllm_config.model_config.max_model_len
        self.vocab_size: int = self._llm.vllm_config.model_config.get_vocab_size()

    def _run_loop(self) -> None:
        """Blocks SIGINT: vLLM's processes inherit the mask, so that Ctrl-C in the terminal does not reach them."""
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        self._loop.run_forever()

    async def _start_vllm(self, options: dict[str, Any]) -> Any:
        arguments = AsyncEngineArgs(
            **options,
            load_format="safetensors",  # no pickle
            trust_remote_code=False,
            logits_processors=[f"{_PACKAGE}.logits_processor:ExactSampler"],
            worker_extension_cls=f"{_PACKAGE}.logits_processor.RecordReader",
            async_scheduling=False,  # the sampler must know every token before it draws the next
            generation_config="vllm",
        )
        bind_processes()
        config = arguments.create_engine_config(UsageContext.ENGINE_CONTEXT)
        check_head_size(config.model_config)
        self.model_context_tokens = config.model_config.max_model_len  # before vLLM cuts it to what its cache holds
        return AsyncLLM.from_vllm_config(
            config, stat_loggers=[lambda config, index=0: self.statistics], disable_log_stats=True
        )

    def renew(self) -> None:
        """Become as new, for another engine: no job, no prompt and no adapter is left, and nothing is counted.

        Raises:
            GrpoError: vLLM has died, or hangs.
        """
        self._wait(self._drop_all())
        self._ended = SimpleQueue()
        self.statistics.reset()

    def close(self) -> None:
        """Stop vLLM's processes. Jobs under way are dropped."""
        if self._loop.is_running():
            self._wait(self._stop_vllm())
            self._stop_loop()

    def start(self, job: Job) -> None:
        self._loop.call_soon_threadsafe(self._begin, job)

    def take(self) -> Ended:
        """Wait for the next job to end.

        Raises:
            GrpoError: vLLM has died, or hangs. Every later call raises it, too.
        """
        watchdog = self._watchdog()
        while self._failure is None:
            try:
                ended = self._ended.get(timeout=CHECK_EVERY_S)
            except Empty:
                self._check(watchdog)
                continue
            if isinstance(ended, Ended):
                return ended
            self._failure = EngineError(_DEAD) if isinstance(ended, EngineDeadError) else ended
        raise self._failure

    @property
    def has_ended(self) -> bool:
        """Whether ``take`` would return at once."""
        return not self._ended.empty()

    def cancel(self, ticket: int) -> None:
        """Abort a job and wait until vLLM has been told. One that has ended is no error."""
        self._wait(self._cancel(ticket))

    def load(self, adapter: LoadedAdapter) -> None:
        self._wait(self._while_alive(self._llm.add_lora(lora_request(adapter))))

    def unload(self, adapter: LoadedAdapter) -> None:
        self._wait(self._while_alive(self._llm.remove_lora(adapter.id)))

    def forget_prompts(self) -> None:
        self._wait(self._while_alive(self._llm.reset_prefix_cache()))

    def _watchdog(self) -> Watchdog:
        return Watchdog(self.statistics, envs.VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS)

    def _check(self, watchdog: Watchdog) -> None:
        try:
            watchdog.check()
        except EngineError as error:
            self._failure = error

    def _wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        try:
            return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()
        except EngineDeadError as error:
            raise EngineError(_DEAD) from error

    def _stop_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _drop_all(self) -> None:
        await self._cancel_all()
        for adapter_id in await self._while_alive(self._llm.list_loras()):
            await self._while_alive(self._llm.remove_lora(adapter_id))
        await self._while_alive(self._llm.reset_prefix_cache())

    async def _cancel_all(self) -> None:
        for ticket in list(self._tasks):
            await self._cancel(ticket)

    async def _stop_vllm(self) -> None:
        await self._cancel_all()
        processes = self._llm.engine_core.resources.engine_manager.processes
        self._llm.shutdown(timeout=_SHUTDOWN_S)
        for process in processes:
            process.join()  # vLLM does not wait for processes that it has killed
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        self._llm.engine_core.resources.ctx.destroy(linger=0)  # else the garbage collector does it, with a warning

    def _begin(self, job: Job) -> None:
        self.statistics.begin(time.time())  # the clock of vLLM's iterations
        task = self._tasks[job.ticket] = self._loop.create_task(self._serve(job))
        task.add_done_callback(lambda done: self._finish(job.ticket, done))

    def _finish(self, ticket: int, task: asyncio.Task[Ended]) -> None:
        del self._tasks[ticket]
        if not task.cancelled():
            self._ended.put(task.exception() or task.result())

    async def _cancel(self, ticket: int) -> None:
        task = self._tasks.get(ticket)
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _serve(self, job: Job) -> Ended:
        try:
            return await self._runner.run(job)
        except GrpoError as error:
            return Ended(job.ticket, error)
        except (VLLMClientError, EngineGenerateError) as error:
            self._records.forget(job.ticket, -job.ticket)
            return Ended(job.ticket, EngineError(f"vLLM failed on this request: {error.__cause__ or error}"))
        except asyncio.CancelledError:
            self._records.forget(job.ticket, -job.ticket)
            raise

    async def _take_records(self, tickets: list[int]) -> list[dict[str, Any]]:
        (records, *_) = await self._while_alive(self._llm.collective_rpc("take_records", args=(tickets,)))
        return records  # of the first worker: every one has the same

    async def _while_alive(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """The result of a call into vLLM's process. vLLM itself would wait forever for a process that has died.

        Raises:
            EngineDeadError, GrpoError: it has died, or hangs, or did so before.
        """
        if self._failure is not None:
            coroutine.close()
            raise self._failure
        task = self._loop.create_task(coroutine)
        watchdog = self._watchdog()
        while not task.done():
            await asyncio.wait({task}, timeout=CHECK_EVERY_S)
            if task.done():
                break
            if self._llm.errored:
                task.cancel()
                raise self._llm.dead_error
            self._check(watchdog)
            if self._failure is not None:
                task.cancel()
                raise self._failure
        return task.result()
