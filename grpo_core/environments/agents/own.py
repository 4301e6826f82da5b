"""An agent of one's own: a function that plays a task with any client of OpenAI's API."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from functools import cached_property
from typing import TYPE_CHECKING, Any

from grpo_core.environments.agents.endpoint import Endpoint
from grpo_core.environments.agents.environment import AgentEnvironment
from grpo_core.environments.agents.program import ProgramRun
from grpo_core.environments.user_code import number_of
from grpo_core.errors import ConfigError, EnvironmentCodeError

if TYPE_CHECKING:
    from grpo_core.config import EnvironmentConfig
    from grpo_core.environments.protocol import Environment


class Agent:
    """An environment that ``play`` plays, as ``--environment module:name`` names it.

    ``play`` gets the base URL of its episode and one of ``tasks``, and returns the reward. It may be a coroutine
    function. Each episode has a thread of its own, and all of them ask at the same time.
    """

    def __init__(self, play: Callable[[str, Any], float | Awaitable[float]], tasks: Sequence[Any]) -> None:
        """
        Raises:
            ConfigError: there are no tasks.
        """
        self._program = OwnProgram(play, tasks)
        if not len(tasks):
            raise ConfigError(f"agent {self._program.name}: it has no tasks; give one at least")

    def __call__(self, config: EnvironmentConfig) -> Environment:
        """An environment of its own, for one episode at a time."""
        return AgentEnvironment(self._program)


class OwnProgram:
    """Plays with ``play``. All its episodes have one endpoint."""

    def __init__(self, play: Callable[[str, Any], float | Awaitable[float]], tasks: Sequence[Any]) -> None:
        named = play if inspect.isroutine(play) else type(play)  # such as a partial, which has no name
        self.name = f"{named.__module__}:{named.__qualname__}"
        self._play = play
        self._tasks = tasks

    @property
    def num_tasks(self) -> int:
        return len(self._tasks)

    def start(self, task: int) -> ProgramRun:
        """Begin task number ``task``, in a thread of its own."""
        run = ProgramRun(self._endpoint)
        run.begin(Future())
        threading.Thread(target=self._play_one, args=(run, task), name=f"agent-{task}", daemon=True).start()
        return run

    def reward(self, outcome: Any) -> float:
        """``outcome``, which ``play`` returned.

        Raises:
            EnvironmentCodeError: it is no number.
        """
        try:
            return number_of(outcome)
        except ValueError as error:
            raise EnvironmentCodeError(f"agent {self.name} returned {error}; return a finite number") from error

    @cached_property
    def _endpoint(self) -> Endpoint:
        return Endpoint()

    def _play_one(self, run: ProgramRun, task: int) -> None:
        if not run.outcome.set_running_or_notify_cancel():
            return
        try:
            played: Any = self._play(run.base_url, self._tasks[task])
            run.outcome.set_result(asyncio.run(_awaited(played)) if inspect.isawaitable(played) else played)
        except BaseException as error:  # sys.exit as well: whoever waits for the episode must hear of it
            run.outcome.set_exception(error)


async def _awaited(value: Awaitable[float]) -> float:
    return await value
