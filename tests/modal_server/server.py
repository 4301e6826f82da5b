"""Starts and stops the server, and plants faults."""

from __future__ import annotations

import asyncio
import concurrent.futures
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from grpclib.const import Status
from grpclib.exceptions import GRPCError
from grpclib.server import Stream
from modal_proto import api_pb2

from tests.modal_server.apps import Apps
from tests.modal_server.blobs import Blobs
from tests.modal_server.calls import Calls
from tests.modal_server.container import EndReason
from tests.modal_server.containers import Containers
from tests.modal_server.endpoint import Endpoint
from tests.modal_server.faults import Faults, Kill
from tests.modal_server.functions import Functions
from tests.modal_server.images import Images
from tests.modal_server.logs import Logs
from tests.modal_server.mounts import Mounts
from tests.modal_server.records import Placement
from tests.modal_server.scheduler import Scheduler
from tests.modal_server.secrets import Secrets
from tests.modal_server.state import State
from tests.modal_server.volumes import Volumes

TOKEN_ID, TOKEN_SECRET = "ak-local", "as-local"
CLIENT_LOST_S = 60.0


class ModalServer:
    """A context manager: the server runs in a thread of its own while it is open.

    ``environment`` is what a process needs to use it. Every method is called from outside the server's thread.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="modal-server-")).resolve()
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self._port = probe.getsockname()[1]
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="modal-server", daemon=True)
        self._started = threading.Event()
        self._is_lost = False
        self.num_requests = 0
        """Of clients, not of containers."""

    @property
    def environment(self) -> dict[str, str]:
        return {
            "MODAL_SERVER_URL": f"http://127.0.0.1:{self._port}",
            "MODAL_TOKEN_ID": TOKEN_ID,
            "MODAL_TOKEN_SECRET": TOKEN_SECRET,
            "MODAL_CONFIG_PATH": str(self.folder / "modal.toml"),
            "MODAL_LOGS_TIMEOUT": "10",
        }

    @property
    def faults(self) -> Faults:
        """``image_build_s``, ``queue_s`` and ``refuses_credentials`` can be set at any time."""
        return self._state.faults

    def __enter__(self) -> ModalServer:
        self._thread.start()
        if not self._started.wait(10):
            raise RuntimeError("the local Modal server did not start")
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)
        if self._thread.is_alive():
            raise RuntimeError("the local Modal server did not stop")
        shutil.rmtree(self.folder, ignore_errors=True)

    def output(self, app_id: str | None = None) -> str:
        """Everything that containers printed."""
        return self._call(lambda: self._state.logs.text(app_id))

    def volume(self, name: str, environment: str = "main") -> Path:
        """The folder with the committed files of a volume."""
        return self._volumes.path(name, environment)

    def set_secret(self, name: str, **values: str) -> None:
        self._call(lambda: self._state.secrets.__setitem__(f"st-{name}", values))

    def num_containers(self, function: str | None = None) -> int:
        """Containers that run now, of one function or of all."""
        return self._call(
            lambda: sum(function in (None, one.function.name) for one in self._state.scheduler.containers)
        )

    @property
    def num_started(self) -> int:
        """Containers started so far."""
        return len(self._state.scheduler.started)

    def placements(self, function: str) -> list[Placement]:
        """Of the containers of ``function`` that were started so far, in order."""
        return self._call(
            lambda: [
                one.placement(self._state.apps[one.app_id].environment)
                for one in self._state.scheduler.started
                if one.name == function
            ]
        )

    def definition(self, app: str, function: str) -> api_pb2.Function:
        """What a deployed app said of one of its functions."""

        def find() -> api_pb2.Function:
            deployed = self._state.find_deployed(app, "main")
            assert deployed is not None, f"no app {app!r}"
            return self._state.functions[deployed.function_ids[function]].definition

        return self._call(find)

    def num_inputs(self, function: str) -> int:
        """Inputs that callers gave to ``function``; one that is run again counts once."""
        return self._call(
            lambda: sum(len(call.inputs) for call in self._state.calls.values() if call.function.name == function)
        )

    @property
    def num_reloads(self) -> int:
        return self._volumes.num_reloads

    @property
    def num_commits(self) -> int:
        return self._volumes.num_commits

    def kill(self, function: str, reason: EndReason = "crashed") -> int:
        """Kill the containers of ``function`` now, and return how many there were. A preempted one is asked first."""

        def kill() -> int:
            found = [one for one in self._state.scheduler.containers if one.function.name == function]
            for container in found:
                container.preempt() if reason == "preempted" else container.kill(reason)
            return len(found)

        return self._call(kill)

    def kill_on(
        self,
        function: str,
        *,
        on_input: int | None = None,
        on_chunk: int | None = None,
        times: int = 1,
        delay_s: float = 0.0,
        is_preemption: bool = False,
        same_input: bool = False,
    ) -> None:
        """Kill the container of ``function`` that gets its n-th input from now, or that yields its n-th chunk.

        ``times=2`` kills the one that gets the next input, too, ``times=-1`` every one from then on; with
        ``same_input``, only those that get the first one's input again. ``delay_s`` lets it work for a while before.
        """
        kill = Kill(function, on_input, on_chunk, times, delay_s, is_preemption, same_input)
        self._call(lambda: self._state.faults.kills.append(kill))

    def lose(self, duration_s: float | None = None) -> None:
        """Close every connection and listen to nobody: for ``duration_s``, or for good. Returns when it is lost."""
        self._run(self._lose(duration_s))

    def wait_until(self, is_true: Callable[[], bool], timeout_s: float = 20.0) -> None:
        """Poll until ``is_true()``.

        Raises:
            TimeoutError: it never was.
        """
        deadline = time.monotonic() + timeout_s
        while not is_true():
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {timeout_s:g} s; containers printed:\n{self.output()}")
            time.sleep(0.02)

    def _call(self, function: Callable[[], Any]) -> Any:
        async def call() -> Any:
            return function()

        return self._run(call())

    def _run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        future: concurrent.futures.Future[Any] = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        return future.result(30)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        state = self._state = State(self.folder)
        self._blobs = Blobs()
        await self._blobs.start()
        mounts = Mounts(state, self._blobs)
        self._volumes = Volumes(state, self._blobs)
        state.logs = Logs(state)
        state.scheduler = Scheduler(state, mounts, self._volumes, lambda: self._is_lost)
        rooms = [Apps(state), Functions(state), Calls(state), Containers(state), Images(state), mounts]
        self._rooms = state.scheduler.rooms = [*rooms, Secrets(state), self._volumes, state.logs, self._blobs]
        await self._open()
        watch = asyncio.create_task(self._watch_clients())
        self._started.set()
        await self._stop.wait()
        watch.cancel()
        await state.scheduler.close()
        if not self._is_lost:
            await self._endpoint.close()
        await self._blobs.close()

    async def _open(self) -> None:
        self._endpoint = Endpoint(self._rooms, check=self._check_credentials)
        await self._endpoint.listen(self._port)

    async def _check_credentials(self, stream: Stream) -> None:
        self.num_requests += 1
        metadata = stream.metadata or {}
        given = (metadata.get("x-modal-token-id"), metadata.get("x-modal-token-secret"))
        if self.faults.refuses_credentials or given != (TOKEN_ID, TOKEN_SECRET):
            raise GRPCError(Status.UNAUTHENTICATED, "Token validation failed: the token has expired")

    async def _lose(self, duration_s: float | None) -> None:
        self._is_lost = True
        await self._endpoint.close()
        for container in self._state.scheduler.containers:
            await container.close()
        if duration_s is not None:
            self._loop.call_later(duration_s, lambda: self._loop.create_task(self._find()))

    async def _find(self) -> None:
        self._is_lost = False
        await self._open()
        for container in self._state.scheduler.containers:
            await container.open(self._rooms, lambda: self._is_lost)

    async def _watch_clients(self) -> None:
        """Stop what a client left behind that has not been heard of for long."""
        while True:
            await asyncio.sleep(1)
            for app in list(self._state.apps.values()):
                is_left = time.monotonic() - app.seen_at > CLIENT_LOST_S
                if app.state == api_pb2.APP_STATE_EPHEMERAL and is_left and not self._is_lost:
                    self._state.scheduler.stop(app)
