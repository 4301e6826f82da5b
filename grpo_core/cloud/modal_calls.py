"""The calls of ``app.py``'s functions to Modal and to each other. Without containers all runs in this process."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import modal
import modal.exception

from grpo_core.cloud.engine_service import EngineService
from grpo_core.cloud.fleet import RolloutFleet, Shard
from grpo_core.cloud.remote_engine import RemoteEngine
from grpo_core.config import GrpoConfig
from grpo_core.home import Home
from grpo_core.ledger.recorder import adopt
from grpo_core.types import Batch


def this_call() -> str:
    """The id of the call that runs in this container: the same when Modal starts it again."""
    here = f"local-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{time.time_ns() % 1_000_000_000:09d}"
    return modal.current_function_call_id() or here


def is_running(call_id: str) -> bool:
    """Whether the call is still running, as far as Modal knows."""
    if not call_id.startswith("fc-"):
        return False
    try:
        modal.FunctionCall.from_id(call_id).get(timeout=0)
    except modal.exception.OutputExpiredError:
        return False
    except TimeoutError:
        return True
    except Exception:  # it ended with any error, or Modal has forgotten it
        return False
    return False


def show_logs() -> None:
    """Let ``modal app logs`` show what the packages log."""
    if not modal.is_local():
        logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
        logging.getLogger("grpo_core").setLevel(logging.INFO)


def fleet_of(run_rollout: Any, config: GrpoConfig, num_workers: int, engine: str, sources: str = "") -> RolloutFleet:
    """``num_workers`` calls of the Modal function ``run_rollout`` for each batch, in flight together.

    ``sources`` is as in ``grpo_core.cloud.sources``.
    """

    def play(shards: Sequence[Shard]) -> Iterator[Batch | Exception]:
        parts = [(config.run, one.version, one.index, one.first_group, one.num_groups) for one in shards]
        settings = config.model_dump_json()
        common = {"settings": settings, "engine": engine, "sources": sources, "with_batch": True}
        if modal.is_local():
            results = (run_rollout.local(*part, **common) for part in parts)
        else:
            results = run_rollout.starmap(parts, kwargs=common, return_exceptions=True)
        for place, result in enumerate(results):
            if isinstance(result, Exception):
                yield result
                continue
            adopt(replace(account, process=f"worker-{place}") for account in result["accounts"])
            yield result["batch"]

    return RolloutFleet(config.rollout.num_groups, num_workers, play)


def ask_engine(
    engine_class: Any, config: GrpoConfig, engine: str, reload: Callable[[], None]
) -> tuple[RemoteEngine, Callable[[], int]]:
    """An engine of ``config.run`` in a container of the Modal class, and a function that returns its latest version."""
    if modal.is_local():
        service, wait = _kept_service(config, engine, reload)  # pyright: ignore[reportArgumentType]  # frozen: it hashes
        return RemoteEngine(
            config.run,
            lambda requests, version: wait(service.sample(requests, version)),
            lambda version: wait(service.prepare(version)),
            _is_lost,
        ), lambda: wait(service.latest())
    there = engine_class(run=config.run, engine=engine, settings=config.model_dump_json())
    return RemoteEngine(config.run, there.sample.remote, there.prepare.remote, _is_lost), there.latest.remote


def _is_lost(error: Exception) -> bool:
    return isinstance(error, modal.exception.InternalFailure)


@lru_cache(maxsize=1)
def _kept_service(
    config: GrpoConfig, engine: str, reload: Callable[[], None]
) -> tuple[EngineService, Callable[[Any], Any]]:
    """A service in this process, and a function that waits for its coroutines.

    Its event loop runs in a thread until the process ends. ``pytest_grpo.remote.event_loop`` closes its own and cancels
    what runs in it, and vLLM's client blocks Ctrl-C in its own, so the three stay apart.
    """
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="engine", daemon=True).start()
    service = EngineService(config, Home.from_environment(), reload, engine)
    return service, lambda what: asyncio.run_coroutine_threadsafe(what, loop).result()
