"""Functions and classes: created, looked up, and bound to parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from grpclib.const import Status
from grpclib.exceptions import GRPCError
from modal_proto import api_pb2

from tests.modal_server.records import Function, new_id

if TYPE_CHECKING:
    from tests.modal_server.containers import Container
    from tests.modal_server.state import State


class Functions:
    def __init__(self, state: State) -> None:
        self._state = state

    async def FunctionPrecreate(
        self, request: api_pb2.FunctionPrecreateRequest, _: Container | None
    ) -> api_pb2.FunctionPrecreateResponse:
        definition = api_pb2.Function(
            function_name=request.function_name,
            function_type=request.function_type,
            function_schema=request.function_schema,
            method_definitions=request.method_definitions,
            supported_input_formats=request.supported_input_formats,
            supported_output_formats=request.supported_output_formats,
        )
        function_id = request.existing_function_id or new_id("fu")
        metadata = self._metadata(function_id, request.app_id, definition)
        return api_pb2.FunctionPrecreateResponse(function_id=function_id, handle_metadata=metadata)

    async def FunctionCreate(
        self, request: api_pb2.FunctionCreateRequest, _: Container | None
    ) -> api_pb2.FunctionCreateResponse:
        is_ranked = request.HasField("function_data")  # one definition for each GPU that would do
        definition = request.function_data.ranked_functions[0].function if is_ranked else request.function
        function_id = request.existing_function_id or new_id("fu")
        metadata = self._metadata(function_id, request.app_id, definition)
        self._state.functions[function_id] = Function(function_id, request.app_id, definition, metadata)
        return api_pb2.FunctionCreateResponse(
            function_id=function_id,
            function=definition,
            handle_metadata=metadata,
            function_data=request.function_data if is_ranked else _data(definition),
        )

    async def ClassCreate(
        self, request: api_pb2.ClassCreateRequest, _: Container | None
    ) -> api_pb2.ClassCreateResponse:
        return api_pb2.ClassCreateResponse(
            class_id=request.existing_class_id or new_id("cs"), handle_metadata=api_pb2.ClassHandleMetadata()
        )

    async def FunctionGet(
        self, request: api_pb2.FunctionGetRequest, _: Container | None
    ) -> api_pb2.FunctionGetResponse:
        app = self._state.find_deployed(request.app_name, request.environment_name)
        if app is None or request.object_tag not in app.function_ids:
            raise GRPCError(Status.NOT_FOUND, f"no function {request.object_tag!r} in app {request.app_name!r}")
        function = self._state.functions[app.function_ids[request.object_tag]]
        return api_pb2.FunctionGetResponse(
            function_id=function.id, handle_metadata=function.metadata, function=_data(function.definition)
        )

    async def ClassGet(self, request: api_pb2.ClassGetRequest, _: Container | None) -> api_pb2.ClassGetResponse:
        app = self._state.find_deployed(request.app_name, request.environment_name)
        if app is None or request.object_tag not in app.class_ids:
            raise GRPCError(Status.NOT_FOUND, f"no class {request.object_tag!r} in app {request.app_name!r}")
        return api_pb2.ClassGetResponse(
            class_id=app.class_ids[request.object_tag], handle_metadata=api_pb2.ClassHandleMetadata()
        )

    async def FunctionBindParams(
        self, request: api_pb2.FunctionBindParamsRequest, _: Container | None
    ) -> api_pb2.FunctionBindParamsResponse:
        base = self._state.function(request.function_id)
        key = request.SerializeToString(deterministic=True)
        bound_id = self._state.bound_ids.setdefault(key, new_id("fu"))
        if bound_id not in self._state.functions:
            definition = _with_options(base.definition, request.function_options)
            metadata = self._metadata(bound_id, base.app_id, definition)
            self._state.functions[bound_id] = Function(
                bound_id, base.app_id, definition, metadata, request.serialized_params
            )
        bound = self._state.functions[bound_id]
        return api_pb2.FunctionBindParamsResponse(bound_function_id=bound_id, handle_metadata=bound.metadata)

    def _metadata(self, function_id: str, app_id: str, definition: api_pb2.Function) -> api_pb2.FunctionHandleMetadata:
        metadata = api_pb2.FunctionHandleMetadata(
            app_id=app_id,
            function_name=definition.function_name,
            function_type=definition.function_type,
            is_method=definition.is_method,
            definition_id=f"de-{function_id}",
            class_parameter_info=definition.class_parameter_info,
            function_schema=definition.function_schema,
            supported_input_formats=definition.supported_input_formats,
            supported_output_formats=definition.supported_output_formats,
        )
        self._limit(metadata)
        class_name = definition.function_name.removesuffix(".*")
        for name, method in definition.method_definitions.items():
            handle = metadata.method_handle_metadata[name]
            handle.app_id = app_id
            handle.function_name = method.function_name or f"{class_name}.{name}"
            handle.function_type = method.function_type
            handle.is_method = True
            handle.use_method_name = name
            handle.function_schema.CopyFrom(method.function_schema)
            handle.supported_input_formats.extend(method.supported_input_formats)
            handle.supported_output_formats.extend(method.supported_output_formats)
            self._limit(handle)
        return metadata

    def _limit(self, metadata: api_pb2.FunctionHandleMetadata) -> None:
        metadata.max_object_size_bytes = self._state.max_object_size_bytes
        metadata.max_async_object_size_bytes = self._state.max_object_size_bytes


def _data(definition: api_pb2.Function) -> api_pb2.FunctionData:
    """What the SDK shows about a function."""
    return api_pb2.FunctionData(
        module_name=definition.module_name,
        function_name=definition.function_name,
        function_type=definition.function_type,
        ranked_functions=[api_pb2.FunctionData.RankedFunction(rank=0, function=definition)],
    )


def _with_options(definition: api_pb2.Function, options: api_pb2.FunctionOptions) -> api_pb2.Function:
    """What ``with_options`` and its kin change, on a copy."""
    changed = api_pb2.Function()
    changed.CopyFrom(definition)
    for field in ("resources", "retry_policy", "scheduler_placement"):
        if options.HasField(field):
            getattr(changed, field).CopyFrom(getattr(options, field))
    for field in (
        "concurrency_limit", "timeout_secs", "task_idle_timeout_secs", "warm_pool_size", "target_concurrent_inputs",
        "max_concurrent_inputs", "batch_max_size", "batch_linger_ms", "cloud_provider_str",
    ):  # fmt: skip
        if options.HasField(field):
            setattr(changed, field, getattr(options, field))
    if options.replace_volume_mounts:
        del changed.volume_mounts[:]
    changed.volume_mounts.extend(options.volume_mounts)
    if options.replace_secret_ids:
        del changed.secret_ids[:]
    changed.secret_ids.extend(options.secret_ids)
    changed.mount_ids.extend(options.mount_ids)
    return changed
