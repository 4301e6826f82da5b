"""One environment of verifiers, running: its tasks, and its episodes in an event loop of their own."""

from __future__ import annotations

import asyncio
import atexit
import logging
import threading
from collections.abc import Coroutine, Mapping
from importlib import import_module
from itertools import islice
from typing import Any, TypeVar

from grpo_core.config.values import merged
from grpo_core.environments.agents.endpoint import MODEL, Endpoint
from grpo_core.environments.agents.program import ProgramRun
from grpo_core.environments.user_code import described
from grpo_core.errors import ConfigError, EnvironmentCodeError

logger = logging.getLogger(__name__)

MAX_END_S = 30.0
"""For the programs of episodes that are given up."""
MAX_TASKS = 10_000
"""Of a taskset without an end."""
HARNESS = "null"
"""The package's chat loop: it runs nothing but the tools of the task. Its own default, ``bash``, runs what the model
writes, on this machine."""

Result = TypeVar("Result")


class Session:
    """Plays episodes of the taskset ``name``. ``settings`` are those of verifiers' table ``[env]``."""

    def __init__(self, name: str, settings: Mapping[str, Any]) -> None:
        """
        Raises:
            ConfigError: there is no such taskset, or it does not take the settings.
        """
        self.name = f"verifiers:{name}"
        self._package: Any = import_module("verifiers.v1")
        self._environment = self._made(name, settings)
        tasks = iter(self._environment.taskset)
        self._tasks: list[Any] = list(tasks if self._environment.taskset.bounded else islice(tasks, MAX_TASKS))
        if not self._tasks:
            raise ConfigError(f"environment.name 'verifiers:{name}': it has no tasks")
        self._endpoint = Endpoint()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="verifiers", daemon=True)
        self._thread.start()
        self._serving = self._environment.serving()
        self._call(self._serving.__aenter__())
        atexit.register(self.close)

    @property
    def num_tasks(self) -> int:
        return len(self._tasks)

    def start(self, task: int) -> ProgramRun:
        """Play ``task`` in the loop; the outcome is the package's own ``Episode``."""
        run = ProgramRun(self._endpoint)
        client = self._package.EvalClientConfig(base_url=run.base_url, api_key_var="NO_KEY_IS_NEEDED")
        context = self._package.ModelContext(model=MODEL, client=client)
        playing = self._environment.run_episode(self._tasks[task], context)
        run.begin(asyncio.run_coroutine_threadsafe(playing, self._loop))
        return run

    def reward(self, outcome: Any) -> float:
        """What the package made of its episode, unchanged: the weighted sum of its rewards.

        Raises:
            EnvironmentCodeError: the episode failed, or several agents played in it.
        """
        errors = [*outcome.errors, *(error for trace in outcome.traces for error in trace.errors)]
        if errors:
            last = " ".join(errors[-1].message.split())
            raise EnvironmentCodeError(f"{self.name}: a program failed: {errors[-1].type}: {last[-300:]}")
        if len(outcome.traces) != 1:
            raise EnvironmentCodeError(f"{self.name}: {len(outcome.traces)} agents played; one alone can be trained")
        return float(outcome.traces[0].reward)

    def close(self) -> None:
        """End all episodes and their programs."""
        atexit.unregister(self.close)
        if self._thread.is_alive():
            try:
                asyncio.run_coroutine_threadsafe(self._end_all(), self._loop).result(MAX_END_S)
            except Exception as error:  # of the package, when the interpreter ends: there is nobody left to tell
                logger.info("verifiers did not end: %s", described(error))
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
            self._endpoint.close()

    async def _end_all(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._serving.__aexit__(None, None, None)

    def _call(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _made(self, name: str, settings: Mapping[str, Any]) -> Any:
        """The package's environment."""
        if not name:
            raise ConfigError("environment.name 'verifiers:' names no environment; give verifiers:NAME")
        package = self._package
        agent: dict[str, Any] = {"runtime": {"type": "subprocess"}}
        try:
            package.import_taskset(name)
            if package.default_harness_id(name) != name:
                agent["harness"] = {"id": HARNESS}
            fields = package.env_config_type(name, settings.get("id", "")).model_fields
            roles = [role for role, field in fields.items() if isinstance(field.default, package.AgentConfig)]
            defaults = {"taskset": {"id": name}, **dict.fromkeys(roles, agent)}
            return package.load_environment(package.resolve_env_config(merged(defaults, settings)))
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"environment.name 'verifiers:{name}': {described(error)}; install that environment, or put its module "
                "into the working folder"
            ) from error
        except (AttributeError, TypeError, ValueError) as error:  # how the package refuses a module or a setting
            raise ConfigError(
                f"environment.name 'verifiers:{name}' with its settings is refused: {described(error)}; "
                "environment.settings takes what verifiers' own configuration has in its table [env]"
            ) from error
