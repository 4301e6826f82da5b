"""One container: a folder, a socket of its own, and Modal's own entrypoint in a subprocess."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from modal_proto import api_pb2

from tests.modal_server.bell import Bell
from tests.modal_server.endpoint import Endpoint
from tests.modal_server.images import environment_of
from tests.modal_server.records import Function, Input, new_id

if TYPE_CHECKING:
    from tests.modal_server.mounts import Mounts
    from tests.modal_server.state import State
    from tests.modal_server.volumes import View, Volumes

SITE_FOLDER = Path(__file__).parent / "site"
INHERITED = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "SSL_CERT_FILE")
STOP_GRACE_S = 3.0
PREEMPTION_GRACE_S = 30.0
EndReason = Literal["crashed", "preempted", "stopped", "timed out"]


class Container:
    """A place for inputs of one function.

    There are no mount namespaces: ``/data`` in the container is ``folder/data`` here, its working folder is
    ``folder/root``, and what the image's ENV gives as an absolute path is given under ``folder``.
    """

    def __init__(self, state: State, function: Function) -> None:
        self.id = new_id("ta")
        self.function = function
        self.folder = Path(tempfile.mkdtemp(prefix="modal-")).resolve()  # short: a socket's path may have 107 bytes
        self.inputs: dict[str, Input] = {}
        self.views: dict[str, View] = {}
        self.num_taken = 0
        self.started_at = time.time()
        self.is_ready = False
        self.is_stopping = False
        self.is_doomed = False
        """A planted fault is about to kill it."""
        self.end_reason: EndReason = "crashed"
        self.startup_failure: api_pb2.GenericResult | None = None
        self.wake = Bell()
        self.cancelled: list[str] = []
        self._state = state
        self._process: asyncio.subprocess.Process | None = None
        self._endpoint: Endpoint | None = None

    @property
    def process_group(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def num_free(self) -> int:
        """Inputs that it could still take."""
        if self.is_stopping or (self.function.definition.single_use_containers and self.num_taken):
            return 0
        return self.function.max_concurrent_inputs - len(self.inputs)

    async def run(self, rooms: list[object], mounts: Mounts, volumes: Volumes, is_lost: Callable[[], bool]) -> None:
        """Start, follow its output, and return when it has ended with everything that it started."""
        try:
            self._prepare(mounts, volumes)
            await self.open(rooms, is_lost)
            if self.is_stopping:
                return
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "modal._container_entrypoint",
                cwd=self.folder / "root",
                env=self._environment(),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
            )
            assert self._process.stdout is not None
            assert self._process.stderr is not None
            outputs = asyncio.gather(
                self._follow(self._process.stdout, api_pb2.FILE_DESCRIPTOR_STDOUT),
                self._follow(self._process.stderr, api_pb2.FILE_DESCRIPTOR_STDERR),
            )
            await self._process.wait()
            self.kill()  # what it started and left behind
            await outputs
        finally:
            self.kill()
            await self.close()
            shutil.rmtree(self.folder, ignore_errors=True)

    async def open(self, rooms: list[object], is_lost: Callable[[], bool]) -> None:
        """Listen on the container's socket, unless the server is lost just now."""
        if not is_lost() and self._endpoint is None:
            self._endpoint = Endpoint(rooms, caller=self)
            await self._endpoint.listen_on(self.folder / "s")

    async def close(self) -> None:
        if self._endpoint is not None:
            endpoint, self._endpoint = self._endpoint, None
            await endpoint.close()
            (self.folder / "s").unlink(missing_ok=True)

    def stop(self) -> None:
        """Let it end by itself: at once when idle, through an interrupt when busy, and not for long."""
        if self.is_stopping:
            return
        self.is_stopping = True
        self.end_reason = "stopped"
        self.wake.ring()
        if not self.is_ready:
            self.kill()
        elif self.inputs and self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGINT)
        asyncio.get_running_loop().call_later(STOP_GRACE_S, self.kill)

    def preempt(self) -> None:
        """As Modal does it: an interrupt, and after a while the end. What it works on goes to another container."""
        self.is_stopping = True
        self.end_reason = "preempted"
        self.wake.ring()
        if not self.is_ready or self._process is None:
            self.kill()
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGINT)
        asyncio.get_running_loop().call_later(PREEMPTION_GRACE_S, self.kill)

    def kill(self, reason: EndReason | None = None) -> None:
        self.end_reason = reason or self.end_reason
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def _prepare(self, mounts: Mounts, volumes: Volumes) -> None:
        definition = self.function.definition
        (self.folder / "root").mkdir()
        (self.folder / "tmp").mkdir()
        mounts.place(list(definition.mount_ids), self.folder)
        for mount in definition.volume_mounts:
            path = self.folder / mount.mount_path.lstrip("/")
            self.views[mount.volume_id] = volumes.mount(mount.volume_id, path)
        app = self._state.apps[self.function.app_id]
        arguments = api_pb2.ContainerArguments(
            task_id=self.id,
            function_id=self.function.id,
            app_id=app.id,
            function_def=definition,
            serialized_params=self.function.serialized_params,
            environment_name=app.environment,
            app_layout=self._state.layout(app),
        )
        (self.folder / "arguments").write_bytes(arguments.SerializeToString())

    def _environment(self) -> dict[str, str]:
        definition = self.function.definition
        inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
        from_image = {
            name: f"{self.folder}{value}".rstrip("/") if value.startswith("/") else value
            for name, value in environment_of(self._state, definition.image_id).items()
        }
        secrets: dict[str, str] = {}
        for secret_id in definition.secret_ids:
            secrets |= self._state.secrets[secret_id]
        return {
            **inherited,
            "PYTHONUNBUFFERED": "1",
            **from_image,
            **secrets,
            "HOME": str(self.folder / "root"),
            "TMPDIR": str(self.folder / "tmp"),  # what a killed container leaves there goes with it
            "PYTHONPATH": f"{self.folder / 'root'}{os.pathsep}{SITE_FOLDER}",
            "MODAL_IS_REMOTE": "1",
            "MODAL_SERVER_URL": f"unix://{self.folder / 's'}",
            "MODAL_CONFIG_PATH": str(self.folder / "modal.toml"),
            "MODAL_CONTAINER_ARGUMENTS_PATH": str(self.folder / "arguments"),
            "MODAL_TASK_ID": self.id,
            "MODAL_IMAGE_ID": definition.image_id,
            "MODAL_ENVIRONMENT": self._state.apps[self.function.app_id].environment,
        }

    async def _follow(self, stream: asyncio.StreamReader, file_descriptor: int) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        while data := await stream.read(1 << 16):
            if text := decoder.decode(data):
                self._state.logs.write(self, text, file_descriptor)
