"""Everything the server knows, in one place, so that the rooms can find each other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from grpclib.const import Status
from grpclib.exceptions import GRPCError
from modal_proto import api_pb2

from tests.modal_server.faults import Faults
from tests.modal_server.records import App, Call, Function

if TYPE_CHECKING:
    from tests.modal_server.logs import Logs
    from tests.modal_server.scheduler import Scheduler

OBJECT_LIMIT_BYTES = 2 * 1024 * 1024  # the SDK's own


class State:
    """Apps, functions and calls by id, and the faults that tests have planted."""

    scheduler: Scheduler
    logs: Logs

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.apps: dict[str, App] = {}
        self.functions: dict[str, Function] = {}
        self.bound_ids: dict[bytes, str] = {}
        self.calls: dict[str, Call] = {}
        self.images: dict[str, api_pb2.Image] = {}
        self.mounts: dict[str, list[api_pb2.MountFile]] = {}
        self.secrets: dict[str, dict[str, str]] = {}
        self.max_object_size_bytes = OBJECT_LIMIT_BYTES
        self.faults = Faults()

    def function(self, function_id: str) -> Function:
        if function_id not in self.functions:
            raise GRPCError(Status.NOT_FOUND, f"no function {function_id!r}")
        return self.functions[function_id]

    def call(self, call_id: str) -> Call:
        if call_id not in self.calls:
            raise GRPCError(Status.NOT_FOUND, f"no function call {call_id!r}")
        return self.calls[call_id]

    def find_deployed(self, name: str, environment: str) -> App | None:
        for app in self.apps.values():
            is_live = app.state == api_pb2.APP_STATE_DEPLOYED and not app.is_stopped
            if is_live and (app.name, app.environment) == (name, environment or "main"):
                return app
        return None

    def layout(self, app: App) -> api_pb2.AppLayout:
        """The app's functions, classes and what they depend on, as a container is told them."""
        layout = api_pb2.AppLayout(function_ids=app.function_ids, class_ids=app.class_ids)
        dependencies: set[str] = set()
        for function_id in app.function_ids.values():
            function = self.functions[function_id]
            layout.objects.append(api_pb2.Object(object_id=function_id, function_handle_metadata=function.metadata))
            dependencies.update(one.object_id for one in function.definition.object_dependencies)
        for class_id in app.class_ids.values():
            metadata = api_pb2.ClassHandleMetadata()
            layout.objects.append(api_pb2.Object(object_id=class_id, class_handle_metadata=metadata))
        for object_id in sorted(dependencies - set(app.function_ids.values()) - set(app.class_ids.values())):
            entry = api_pb2.Object(object_id=object_id)
            if object_id.startswith("vo-"):
                entry.volume_metadata.version = api_pb2.VOLUME_FS_VERSION_V2
            elif object_id.startswith("mo-"):
                entry.mount_handle_metadata.content_checksum_sha256_hex = object_id
            layout.objects.append(entry)
        return layout
