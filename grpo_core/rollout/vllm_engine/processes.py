"""Makes vLLM's processes end with the process that starts them.

vLLM's own engine process survives a trainer that was killed, and keeps its memory. vLLM has no hook that runs when a
process starts, so the functions here replace its two entry points; ``multiprocessing`` finds them by name.
"""

from __future__ import annotations

from typing import Any

from vllm.v1.engine.core import EngineCoreProc  # pyright: ignore[reportMissingImports]
from vllm.v1.executor.multiproc_executor import WorkerProc  # pyright: ignore[reportMissingImports]

from grpo_core.parent_death import end_with_parent

_run_engine_core = EngineCoreProc.run_engine_core
_run_worker = WorkerProc.worker_main


def bind_processes() -> None:
    """From now on vLLM's processes end with this process. Calling it twice is no error."""
    EngineCoreProc.run_engine_core = staticmethod(run_engine_core)
    WorkerProc.worker_main = staticmethod(run_worker)


def run_engine_core(*arguments: Any, **options: Any) -> None:
    end_with_parent()
    bind_processes()  # for its workers
    _run_engine_core(*arguments, **options)


def run_worker(*arguments: Any, **options: Any) -> None:
    end_with_parent()
    _run_worker(*arguments, **options)
