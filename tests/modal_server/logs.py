"""What containers print and the states they pass through, kept per app and streamed to whoever follows."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from google.protobuf.empty_pb2 import Empty
from modal_proto import api_pb2

from tests.modal_server.bell import Bell

if TYPE_CHECKING:
    from tests.modal_server.containers import Container
    from tests.modal_server.records import App, Function
    from tests.modal_server.state import State


class Logs:
    def __init__(self, state: State) -> None:
        self._state = state
        self._batches: dict[str, list[api_pb2.TaskLogsBatch]] = {}
        self._bell = Bell()

    async def AppGetLogs(
        self, request: api_pb2.AppGetLogsRequest, _: Container | None
    ) -> AsyncIterator[api_pb2.TaskLogsBatch]:
        app = self._state.apps[request.app_id]
        position = int(request.last_entry_id.partition("-")[0] or 0)
        deadline = time.monotonic() + request.timeout
        while True:
            batches = self._batches.get(app.id, [])
            while position < len(batches):
                position += 1
                if _is_wanted(batches[position - 1], request):
                    yield batches[position - 1]
            if app.is_done:
                yield api_pb2.TaskLogsBatch(app_done=True)
                return
            if time.monotonic() >= deadline:
                return
            await self._bell.wait(deadline - time.monotonic())

    async def AppFetchLogs(
        self, request: api_pb2.AppFetchLogsRequest, _: Container | None
    ) -> api_pb2.AppFetchLogsResponse:
        found = [one for one in self._batches.get(request.app_id, []) if _is_found(one, request)]
        return api_pb2.AppFetchLogsResponse(batches=found[-request.limit :] if request.limit else found)

    async def AppCountLogs(self, _: object, __: Container | None) -> Empty:
        return Empty()

    def write(self, container: Container, text: str, file_descriptor: int) -> None:
        running = list(container.inputs.values())
        item = api_pb2.TaskLogs(
            data=text,
            file_descriptor=file_descriptor,  # pyright: ignore[reportArgumentType]
            timestamp=time.time(),
            timestamp_ns=time.time_ns(),
            container_id=container.id,
            function_call_id=running[0].call.id if len(running) == 1 else "",
            input_id=running[0].id if len(running) == 1 else "",
        )
        self._append(container.function.app_id, container.function.id, container.id, item)

    def state(self, container: Container, task_state: int) -> None:
        item = api_pb2.TaskLogs(task_state=task_state, timestamp=time.time())  # pyright: ignore[reportArgumentType]
        self._append(container.function.app_id, container.function.id, container.id, item)

    def queued(self, function: Function, num_waiting: int) -> None:
        progress = api_pb2.TaskProgress(
            len=num_waiting, pos=0, progress_type=api_pb2.FUNCTION_QUEUED, description="waiting for a worker"
        )
        self._append(function.app_id, function.id, "", api_pb2.TaskLogs(task_progress=progress, timestamp=time.time()))

    def done(self, app: App) -> None:
        """The last container of a stopped app has ended."""
        app.is_done = True
        self._bell.ring()

    def text(self, app_id: str | None = None) -> str:
        """Everything printed so far, by one app or by all."""
        return "".join(
            item.data
            for one, batches in self._batches.items()
            if app_id in (None, one)
            for batch in batches
            for item in batch.items
        )

    def _append(self, app_id: str, function_id: str, task_id: str, item: api_pb2.TaskLogs) -> None:
        batches = self._batches.setdefault(app_id, [])
        entry_id = f"{len(batches) + 1}-0"
        batches.append(api_pb2.TaskLogsBatch(task_id=task_id, function_id=function_id, items=[item], entry_id=entry_id))
        self._bell.ring()


def _is_wanted(batch: api_pb2.TaskLogsBatch, request: api_pb2.AppGetLogsRequest) -> bool:
    (item,) = batch.items
    return (
        request.function_id in ("", batch.function_id)
        and request.task_id in ("", batch.task_id)
        and request.function_call_id in ("", item.function_call_id)
        and request.file_descriptor in (api_pb2.FILE_DESCRIPTOR_UNSPECIFIED, item.file_descriptor)
    )


def _is_found(batch: api_pb2.TaskLogsBatch, request: api_pb2.AppFetchLogsRequest) -> bool:
    (item,) = batch.items
    return request.function_id in ("", batch.function_id) and request.search_text in item.data
