"""Runs and deployments, and the environment they are in."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from google.protobuf.empty_pb2 import Empty
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from modal_proto import api_pb2

from tests.modal_server.records import App, new_id

if TYPE_CHECKING:
    from tests.modal_server.containers import Container
    from tests.modal_server.state import State

BUILDER_VERSION = "2025.06"


class Apps:
    def __init__(self, state: State) -> None:
        self._state = state

    async def ClientHello(self, _: Empty, __: Container | None) -> api_pb2.ClientHelloResponse:
        return api_pb2.ClientHelloResponse(image_builder_version=BUILDER_VERSION)

    async def EnvironmentGetOrCreate(
        self, request: api_pb2.EnvironmentGetOrCreateRequest, _: Container | None
    ) -> api_pb2.EnvironmentGetOrCreateResponse:
        name = request.deployment_name or "main"
        settings = api_pb2.EnvironmentSettings(image_builder_version=BUILDER_VERSION, webhook_suffix="")
        metadata = api_pb2.EnvironmentMetadata(name=name, settings=settings)
        return api_pb2.EnvironmentGetOrCreateResponse(environment_id=f"en-{name}", metadata=metadata)

    async def AppCreate(self, request: api_pb2.AppCreateRequest, _: Container | None) -> api_pb2.AppCreateResponse:
        app = App(new_id("ap"), request.description, request.app_state, request.environment_name or "main")
        self._state.apps[app.id] = app
        url = f"https://modal.invalid/apps/{app.id}"
        return api_pb2.AppCreateResponse(app_id=app.id, app_page_url=url, app_logs_url=url)

    async def AppGetOrCreate(
        self, request: api_pb2.AppGetOrCreateRequest, _: Container | None
    ) -> api_pb2.AppGetOrCreateResponse:
        app = self._deployed(request.app_name, request.environment_name)
        if app is None and request.object_creation_type != api_pb2.OBJECT_CREATION_TYPE_CREATE_IF_MISSING:
            raise GRPCError(Status.NOT_FOUND, f"no app {request.app_name!r}")
        if app is None:
            environment = request.environment_name or "main"
            app = App(new_id("ap"), request.app_name, api_pb2.APP_STATE_DEPLOYED, environment)
            self._state.apps[app.id] = app
        return api_pb2.AppGetOrCreateResponse(app_id=app.id)

    async def AppHeartbeat(self, request: api_pb2.AppHeartbeatRequest, _: Container | None) -> Empty:
        self._app(request.app_id).seen_at = time.monotonic()
        return Empty()

    async def AppPublish(self, request: api_pb2.AppPublishRequest, _: Container | None) -> api_pb2.AppPublishResponse:
        app = self._app(request.app_id)
        app.function_ids, app.class_ids = dict(request.function_ids), dict(request.class_ids)
        app.state = request.app_state or app.state
        if app.state == api_pb2.APP_STATE_DEPLOYED:
            app.name, app.version, app.deployed_at = request.name, app.version + 1, time.time()
        url = f"https://modal.invalid/apps/{app.id}"
        return api_pb2.AppPublishResponse(url=url, deployed_at=app.deployed_at)

    async def AppClientDisconnect(self, request: api_pb2.AppClientDisconnectRequest, _: Container | None) -> Empty:
        app = self._app(request.app_id)
        if app.state == api_pb2.APP_STATE_DETACHED:
            app.state = api_pb2.APP_STATE_DETACHED_DISCONNECTED
            self._state.scheduler.stop_when_idle(app)
        elif app.state != api_pb2.APP_STATE_DEPLOYED:
            self._state.scheduler.stop(app)
        return Empty()

    async def AppStop(self, request: api_pb2.AppStopRequest, _: Container | None) -> Empty:
        self._state.scheduler.stop(self._app(request.app_id))
        return Empty()

    async def AppGetByDeploymentName(
        self, request: api_pb2.AppGetByDeploymentNameRequest, _: Container | None
    ) -> api_pb2.AppGetByDeploymentNameResponse:
        app = self._deployed(request.name, request.environment_name)
        return api_pb2.AppGetByDeploymentNameResponse(app_id="" if app is None else app.id)

    async def AppGetLayout(
        self, request: api_pb2.AppGetLayoutRequest, _: Container | None
    ) -> api_pb2.AppGetLayoutResponse:
        return api_pb2.AppGetLayoutResponse(app_layout=self._state.layout(self._app(request.app_id)))

    async def AppList(self, request: api_pb2.AppListRequest, _: Container | None) -> api_pb2.AppListResponse:
        items = [
            api_pb2.AppListResponse.AppListItem(
                app_id=app.id,
                description=app.name,
                state=app.state,  # pyright: ignore[reportArgumentType]
                created_at=app.created_at,
                name=app.name,
            )
            for app in self._state.apps.values()
        ]
        return api_pb2.AppListResponse(apps=items)

    async def TaskList(self, request: api_pb2.TaskListRequest, _: Container | None) -> api_pb2.TaskListResponse:
        tasks = [
            api_pb2.TaskStats(task_id=one.id, app_id=one.function.app_id, started_at=one.started_at)
            for one in self._state.scheduler.containers
            if request.app_id in ("", one.function.app_id)
        ]
        return api_pb2.TaskListResponse(tasks=tasks)

    def _app(self, app_id: str) -> App:
        if app_id not in self._state.apps:
            raise GRPCError(Status.NOT_FOUND, f"no app {app_id!r}")
        return self._state.apps[app_id]

    def _deployed(self, name: str, environment: str) -> App | None:
        return self._state.find_deployed(name, environment)
