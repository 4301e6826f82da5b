"""vLLM's processes, each bound to the life of the one that starts it.

By itself vLLM's engine process outlives a trainer that was killed, with the memory that it holds. vLLM has no hook that
runs when a process begins, so its two entry points are replaced by those here, which ``multiprocessing`` finds by name.
"""

from __future__ import annotations

from typing import Any

from vllm.v1.engine.core import EngineCoreProc  # pyright: ignore[reportMissingImports]
from vllm.v1.executor.multiproc_executor import WorkerProc  # pyright: ignore[reportMissingImports]

from grpo_core.rollout.vllm_engine.parent_death import end_with_parent

_run_engine_core = EngineCoreProc.run_engine_core
_run_worker = WorkerProc.worker_main


def bind_processes() -> None:
    """Let what vLLM starts from now on end with this process. To do it twice is no error."""
    EngineCoreProc.run_engine_core = staticmethod(run_engine_core)
    WorkerProc.worker_main = staticmethod(run_worker)


def run_engine_core(*arguments: Any, **options: Any) -> None:
    end_with_parent()
    bind_processes()  # for its workers
    _run_engine_core(*arguments, **options)


def run_worker(*arguments: Any, **options: Any) -> None:
    end_with_parent()
    _run_worker(*arguments, **options)
