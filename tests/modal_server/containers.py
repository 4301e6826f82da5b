"""What containers ask: for inputs, to give outputs back, to stay alive."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from google.protobuf.empty_pb2 import Empty
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from modal_proto import api_pb2

if TYPE_CHECKING:
    from tests.modal_server.container import Container
    from tests.modal_server.state import State

INPUT_WAIT_S = 15.0
HEARTBEAT_WAIT_S = 5.0


class Containers:
    def __init__(self, state: State) -> None:
        self._state = state

    async def ContainerHello(self, _: Empty, container: Container | None) -> Empty:
        container = _known(container)
        container.is_ready = True
        self._state.logs.state(container, api_pb2.TASK_STATE_ACTIVE)
        return Empty()

    async def ContainerHeartbeat(
        self, _: api_pb2.ContainerHeartbeatRequest, container: Container | None
    ) -> api_pb2.ContainerHeartbeatResponse:
        container = _known(container)
        if not container.cancelled:
            await container.wake.wait(HEARTBEAT_WAIT_S)
        response = api_pb2.ContainerHeartbeatResponse()
        if container.cancelled:
            response.cancel_input_event.input_ids.extend(container.cancelled)
            container.cancelled.clear()
        return response

    async def FunctionGetInputs(
        self, request: api_pb2.FunctionGetInputsRequest, container: Container | None
    ) -> api_pb2.FunctionGetInputsResponse:
        container = _known(container)
        deadline = asyncio.get_running_loop().time() + INPUT_WAIT_S
        while not container.is_stopping:
            taken = self._state.scheduler.take(container, max(1, request.batch_max_size))
            if taken:
                return api_pb2.FunctionGetInputsResponse(inputs=taken)
            remaining_s = deadline - asyncio.get_running_loop().time()
            if remaining_s <= 0:
                return api_pb2.FunctionGetInputsResponse()
            await container.wake.wait(remaining_s)
        return api_pb2.FunctionGetInputsResponse(inputs=[api_pb2.FunctionGetInputsItem(kill_switch=True)])

    async def FunctionPutOutputs(
        self, request: api_pb2.FunctionPutOutputsRequest, container: Container | None
    ) -> Empty:
        container = _known(container)
        for item in request.outputs:
            self._state.scheduler.finish(container, item)
        return Empty()

    async def FunctionGetDynamicConcurrency(
        self, request: api_pb2.FunctionGetDynamicConcurrencyRequest, _: Container | None
    ) -> api_pb2.FunctionGetDynamicConcurrencyResponse:
        return api_pb2.FunctionGetDynamicConcurrencyResponse(concurrency=request.max_concurrency)

    async def TaskResult(self, request: api_pb2.TaskResultRequest, container: Container | None) -> Empty:
        _known(container).startup_failure = request.result
        return Empty()

    async def ContainerStop(self, request: api_pb2.ContainerStopRequest, _: Container | None) -> Empty:
        for container in self._state.scheduler.containers:
            if container.id == request.task_id:
                container.stop()
        return Empty()


def _known(container: Container | None) -> Container:
    if container is None:
        raise GRPCError(Status.PERMISSION_DENIED, "only a container may ask that")
    return container
