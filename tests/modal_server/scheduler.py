"""Brings inputs to containers: starts them, tries again what was lost, ends what takes too long."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from modal_proto import api_pb2

from tests.modal_server.container import Container
from tests.modal_server.faults import Kill
from tests.modal_server.records import App, Call, Function, Input

if TYPE_CHECKING:
    from tests.modal_server.mounts import Mounts
    from tests.modal_server.state import State
    from tests.modal_server.volumes import Volumes

MAX_CONTAINERS = 8
MAX_CRASHES = 3
"""In a row. Then every waiting input of the function fails, as in an ephemeral app on Modal."""
IDLE_S = 60
Status = api_pb2.GenericResult


class Scheduler:
    def __init__(self, state: State, mounts: Mounts, volumes: Volumes, is_lost: Callable[[], bool]) -> None:
        self.containers: list[Container] = []
        self.started: list[Function] = []
        """Those of every container so far, in order."""
        self._state = state
        self._mounts = mounts
        self._volumes = volumes
        self._is_lost = is_lost
        self._waiting: dict[str, deque[Input]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping_when_idle: set[App] = set()
        self.rooms: list[object] = []
        self._is_closing = False

    def add(self, one: Input) -> None:
        if self._state.apps[one.call.function.app_id].is_stopped:
            self._record(one, Status(status=Status.GENERIC_STATUS_TERMINATED, exception="the app is stopped"))
            return
        self._waiting.setdefault(one.call.function.id, deque()).append(one)
        self._balance(one.call.function)

    def take(self, container: Container, max_inputs: int) -> list[api_pb2.FunctionGetInputsItem]:
        """What ``container`` shall work on next; nothing when there is nothing."""
        waiting = self._waiting.get(container.function.id, deque())
        taken = []
        while waiting and len(taken) < max_inputs and (container.num_free > 0 or taken):
            one = waiting.popleft()
            self._start(one, container)
            taken.append(
                api_pb2.FunctionGetInputsItem(
                    input_id=one.id,
                    input=one.payload,
                    function_call_id=one.call.id,
                    function_call_invocation_type=one.call.invocation_type,  # pyright: ignore[reportArgumentType]
                )
            )
        return taken

    def finish(self, container: Container, item: api_pb2.FunctionPutOutputsItem) -> None:
        """Take an output, unless the input went to another container meanwhile."""
        one = container.inputs.pop(item.input_id, None)
        if one is None or one.state != "running" or one.container is not container:
            return
        container.function.num_crashes = 0
        if item.result.status == Status.GENERIC_STATUS_FAILURE:
            self._fail(one, item.result, item)
        else:
            self._record(one, item.result, item)
        self._watch_idle(container)

    def cancel(self, call: Call, *, terminate_containers: bool) -> None:
        for one in call.inputs.values():
            one.is_cancelled = True
            if one.state == "pending":
                self._waiting[call.function.id].remove(one)
                self._record(one, _terminated())
            elif one.state == "running" and one.container is not None:
                one.container.cancelled.append(one.id)
                one.container.wake.ring()
                if terminate_containers:
                    one.container.kill("preempted")

    def kill(self, container: Container, kill: Kill) -> None:
        container.is_doomed = True
        end = container.preempt if kill.is_preemption else container.kill
        asyncio.get_running_loop().call_later(kill.delay_s, end)

    def stop(self, app: App) -> None:
        """End the app: what waits is terminated, and its containers end."""
        if app.is_stopped:
            return
        app.is_stopped, app.state = True, api_pb2.APP_STATE_STOPPED
        for function_id, waiting in self._waiting.items():
            if self._state.functions[function_id].app_id == app.id:
                while waiting:
                    self._record(waiting.popleft(), _terminated())
        for container in self._of_app(app):
            container.stop()
        self._settle(app)

    def stop_when_idle(self, app: App) -> None:
        self._stopping_when_idle.add(app)
        self._settle(app)

    async def close(self) -> None:
        """End every container and wait until it is gone."""
        self._is_closing = True
        for container in self.containers:
            container.is_stopping = True
            container.kill("stopped")
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _start(self, one: Input, container: Container) -> None:
        loop = asyncio.get_running_loop()
        one.state, one.container, one.started_at = "running", container, loop.time()
        container.inputs[one.id] = one
        container.num_taken += 1
        if timeout_s := container.function.definition.timeout_secs:
            loop.call_later(timeout_s, self._time_out, one, container)
        if not container.is_doomed and (kill := self._state.faults.on_input(container.function.name, one.id)):
            self.kill(container, kill)

    def _time_out(self, one: Input, container: Container) -> None:
        if one.state == "running" and container.inputs.get(one.id) is one:
            del container.inputs[one.id]
            timeout_s = container.function.definition.timeout_secs
            text = f"Task's current input {one.id} hit its timeout of {timeout_s}s"
            self._fail(one, Status(status=Status.GENERIC_STATUS_TIMEOUT, exception=text))
            container.is_stopping = True
            container.kill("timed out")

    def _fail(
        self, one: Input, result: api_pb2.GenericResult, item: api_pb2.FunctionPutOutputsItem | None = None
    ) -> None:
        """Try again as the function's retry policy says, or give up."""
        policy = one.call.function.definition.retry_policy
        one.num_failures += 1
        if one.num_failures > policy.retries or one.is_cancelled:
            self._record(one, result, item)
            return
        delay_ms = policy.initial_delay_ms * (policy.backoff_coefficient or 1.0) ** (one.num_failures - 1)
        one.state, one.container = "pending", None
        delay_s = min(delay_ms, policy.max_delay_ms or delay_ms) / 1000
        asyncio.get_running_loop().call_later(delay_s, self.add, one)

    def _record(
        self, one: Input, result: api_pb2.GenericResult, item: api_pb2.FunctionPutOutputsItem | None = None
    ) -> None:
        call = one.call
        output = api_pb2.FunctionGetOutputsItem(
            result=result,
            idx=one.idx,
            input_id=one.id,
            task_id="" if one.container is None else one.container.id,
        )
        if item is not None:
            output.data_format = item.data_format
            output.input_started_at, output.output_created_at = item.input_started_at, item.output_created_at
        one.state = "done"
        call.outputs.append(output)
        call.changed.ring()
        self._settle(self._state.apps[call.function.app_id])

    def _balance(self, function: Function) -> None:
        """Wake those who have room and start containers for what is left."""
        mine = [one for one in self.containers if one.function is function and not one.is_stopping]
        for container in mine:
            container.wake.ring()
        num_waiting = len(self._waiting.get(function.id, ())) - sum(max(0, one.num_free) for one in mine)
        limit = function.definition.concurrency_limit or MAX_CONTAINERS // 2
        while num_waiting > 0 and len(mine) < limit:
            if self._is_closing:
                return
            if len(self.containers) >= MAX_CONTAINERS:
                self._make_room()
                self._state.logs.queued(function, num_waiting)
                return
            container = Container(self._state, function)
            mine.append(container)
            self.containers.append(container)
            self.started.append(function)
            num_waiting -= function.max_concurrent_inputs
            task = asyncio.get_running_loop().create_task(self._run(container))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _make_room(self) -> None:
        """End a container that has nothing to do. What waits starts when it is gone."""
        for container in self.containers:
            is_wanted = bool(self._waiting.get(container.function.id))
            if container.is_ready and not container.inputs and not is_wanted and not container.is_stopping:
                container.stop()
                return

    async def _run(self, container: Container) -> None:
        try:
            if self._state.faults.queue_s:
                self._state.logs.state(container, api_pb2.TASK_STATE_QUEUED)
                self._state.logs.queued(container.function, 1)
                await asyncio.sleep(self._state.faults.queue_s)
            self._state.logs.state(container, api_pb2.TASK_STATE_CREATED)
            await container.run(self.rooms, self._mounts, self._volumes, self._is_lost)
        finally:
            self.containers.remove(container)
            self._clear_up(container)

    def _clear_up(self, container: Container) -> None:
        """Decide what becomes of the inputs of a container that has ended."""
        function, app = container.function, self._state.apps[container.function.app_id]
        self._state.logs.state(container, api_pb2.TASK_STATE_COMPLETED)
        if container.startup_failure is not None:
            self._fail_waiting(function, container.startup_failure)
        elif container.end_reason == "crashed" and container.inputs:
            function.num_crashes += 1
        lost = list(container.inputs.values())
        container.inputs.clear()
        for one in lost:
            one.state, one.container = "pending", None
            if app.is_stopped or one.is_cancelled:
                self._record(one, _terminated())
            elif function.num_crashes > MAX_CRASHES:
                self._record(one, _crashed(function))
            else:
                self._waiting.setdefault(function.id, deque()).append(one)  # last, lest it takes all down with it
        if function.num_crashes > MAX_CRASHES:
            self._fail_waiting(function, _crashed(function))
            function.num_crashes = 0
        for other in {function, *(self._state.functions[name] for name, left in self._waiting.items() if left)}:
            self._balance(other)
        self._settle(app)

    def _fail_waiting(self, function: Function, result: api_pb2.GenericResult) -> None:
        waiting = self._waiting.get(function.id, deque())
        while waiting:
            self._record(waiting.popleft(), result)

    def _watch_idle(self, container: Container) -> None:
        """End a container that has had nothing to do for its ``scaledown_window``."""
        if container.inputs:
            return
        num_taken = container.num_taken

        def end_if_still_idle() -> None:
            if not container.inputs and container.num_taken == num_taken:
                container.stop()

        idle_s = container.function.definition.task_idle_timeout_secs or IDLE_S
        asyncio.get_running_loop().call_later(idle_s, end_if_still_idle)

    def _settle(self, app: App) -> None:
        """End a detached app that has nothing left to do; say when a stopped one has ended."""
        is_busy = any(call.num_unfinished for call in self._state.calls.values() if call.function.app_id == app.id)
        if app in self._stopping_when_idle and not is_busy:
            self._stopping_when_idle.discard(app)
            self.stop(app)
        if app.is_stopped and not self._of_app(app):
            self._state.logs.done(app)

    def _of_app(self, app: App) -> list[Container]:
        return [one for one in self.containers if one.function.app_id == app.id]


def _terminated() -> api_pb2.GenericResult:
    return Status(status=Status.GENERIC_STATUS_TERMINATED, exception="the input was cancelled")


def _crashed(function: Function) -> api_pb2.GenericResult:
    text = f"{function.name}: its containers crashed {function.num_crashes} times in a row"
    return Status(status=Status.GENERIC_STATUS_INTERNAL_FAILURE, exception=text)
