"""Calls: their inputs come in, their outputs and what generators yield go out."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from google.protobuf.empty_pb2 import Empty
from modal_proto import api_pb2

from tests.modal_server.records import Call, Input, new_id

if TYPE_CHECKING:
    from tests.modal_server.container import Container
    from tests.modal_server.state import State

STREAM_S = 60.0


class Calls:
    def __init__(self, state: State) -> None:
        self._state = state

    async def FunctionMap(
        self, request: api_pb2.FunctionMapRequest, _: Container | None
    ) -> api_pb2.FunctionMapResponse:
        function = self._state.function(request.function_id)
        call = Call(new_id("fc"), function, request.function_call_invocation_type, request.parent_input_id)
        self._state.calls[call.id] = call
        return api_pb2.FunctionMapResponse(
            function_call_id=call.id,
            function_call_jwt=call.id,
            pipelined_inputs=self._add(call, list(request.pipelined_inputs)),
            retry_policy=function.definition.retry_policy,
            sync_client_retries_enabled=False,  # the scheduler retries
            max_inputs_outstanding=1000,
        )

    async def FunctionPutInputs(
        self, request: api_pb2.FunctionPutInputsRequest, _: Container | None
    ) -> api_pb2.FunctionPutInputsResponse:
        call = self._state.call(request.function_call_id)
        return api_pb2.FunctionPutInputsResponse(inputs=self._add(call, list(request.inputs)))

    async def FunctionFinishInputs(self, _: api_pb2.FunctionFinishInputsRequest, __: Container | None) -> Empty:
        return Empty()

    async def FunctionGetOutputs(
        self, request: api_pb2.FunctionGetOutputsRequest, _: Container | None
    ) -> api_pb2.FunctionGetOutputsResponse:
        call = self._state.call(request.function_call_id)
        deadline = time.monotonic() + request.timeout
        while True:
            position = int(request.last_entry_id.partition("-")[0] or 0)
            found = call.outputs[position:]
            if request.HasField("start_idx"):
                found = [one for one in found if request.start_idx <= one.idx <= request.end_idx]
            remaining_s = deadline - time.monotonic()
            if found or remaining_s <= 0 or not await call.changed.wait(remaining_s):
                return api_pb2.FunctionGetOutputsResponse(
                    outputs=found,
                    idxs=[one.idx for one in found],
                    last_entry_id=f"{len(call.outputs)}-0",
                    num_unfinished_inputs=call.num_unfinished,
                )

    async def FunctionCallPutDataOut(
        self, request: api_pb2.FunctionCallPutDataRequest, container: Container | None
    ) -> Empty:
        call = self._state.call(request.function_call_id)
        for chunk in request.data_chunks:
            call.chunks[chunk.index] = chunk
            kill = self._state.faults.on_chunk(call.function.name)
            if kill is not None and container is not None:
                self._state.scheduler.kill(container, kill)
                break
        call.changed.ring()
        return Empty()

    async def FunctionCallGetDataOut(
        self, request: api_pb2.FunctionCallGetDataRequest, _: Container | None
    ) -> AsyncIterator[api_pb2.DataChunk]:
        call = self._state.call(request.function_call_id)
        index = request.last_index
        deadline = time.monotonic() + STREAM_S
        while (remaining_s := deadline - time.monotonic()) > 0:
            while index + 1 in call.chunks:
                index += 1
                yield call.chunks[index]
            await call.changed.wait(remaining_s)

    async def FunctionCallCancel(self, request: api_pb2.FunctionCallCancelRequest, _: Container | None) -> Empty:
        call = self._state.call(request.function_call_id)
        self._state.scheduler.cancel(call, terminate_containers=request.terminate_containers)
        return Empty()

    async def FunctionCallFromId(
        self, request: api_pb2.FunctionCallFromIdRequest, _: Container | None
    ) -> api_pb2.FunctionCallFromIdResponse:
        call = self._state.call(request.function_call_id)
        metadata = api_pb2.FunctionCallHandleMetadata(app_id=call.function.app_id, function_id=call.function.id)
        return api_pb2.FunctionCallFromIdResponse(
            function_call_id=call.id, num_inputs=len(call.inputs), metadata=metadata
        )

    def _add(
        self, call: Call, items: list[api_pb2.FunctionPutInputsItem]
    ) -> list[api_pb2.FunctionPutInputsResponseItem]:
        added = []
        for item in items:
            one = Input(new_id("in"), item.idx, call, item.input)
            call.inputs[one.id] = one
            self._state.scheduler.add(one)
            added.append(api_pb2.FunctionPutInputsResponseItem(idx=item.idx, input_id=one.id, input_jwt=one.id))
        return added
