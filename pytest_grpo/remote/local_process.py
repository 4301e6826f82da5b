"""Runs a phase in a clean process on this machine, with the same protocol as on Modal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from pytest_grpo.remote.protocol import Decoder, Event, RemoteLostError, Request

CANCEL_TIMEOUT_S = 2


class SubprocessRemote:
    """Runs each phase in a new process, started in ``folder``, the root of the project."""

    def __init__(self, folder: Path, max_side_by_side: int = 1) -> None:
        self._folder = folder
        self.max_side_by_side = max_side_by_side

    def start(self, request: Request) -> SubprocessCall:
        return SubprocessCall(request, self._folder)

    def close(self) -> None:
        pass


class SubprocessCall:
    """A worker process (``pytest_grpo.remote.worker``) in its own process group, so that all of it can be killed."""

    def __init__(self, request: Request, folder: Path) -> None:
        self._scratch = tempfile.TemporaryDirectory(prefix="grpo-worker-")
        self._errors = Path(self._scratch.name) / "errors.txt"
        self._said: list[str] = []
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "pytest_grpo.remote.worker", self._scratch.name],
                cwd=folder,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
        self._request = request
        self._has_ended = threading.Event()

    @property
    def pid(self) -> int:
        """The id of the worker process and of its process group."""
        return self._process.pid

    def __iter__(self) -> Iterator[Event]:
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        has_ended = False
        try:
            try:
                process.stdin.write(self._request.to_json().encode() + b"\n")
                process.stdin.flush()
            except BrokenPipeError:
                pass  # the worker died already; its exit code is reported below
            for event in Decoder().decode(_whole_lines(process.stdout)):
                has_ended = event["event"] == "end"
                yield event
        finally:
            self._end()
        if not has_ended:
            raise RemoteLostError(f"its process {self.pid} was lost ({self._how_it_ended()})")

    def cancel(self) -> None:
        self._signal(signal.SIGTERM)
        if not self._has_ended.wait(CANCEL_TIMEOUT_S):
            self._signal(signal.SIGKILL)

    def _end(self) -> None:
        """Kill all processes of the group, those that tests started included, and remove the files."""
        self._signal(signal.SIGKILL)  # before the leader is reaped, after which its id may be reused
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    continue  # the worker did not read the whole request
        self._said = self._errors.read_text(errors="replace").strip().splitlines()
        self._scratch.cleanup()
        self._has_ended.set()

    def _signal(self, number: signal.Signals) -> None:
        if self._process.returncode is None:
            try:
                os.killpg(self._process.pid, number)
            except ProcessLookupError:
                return  # the whole group has ended

    def _how_it_ended(self) -> str:
        code = self._process.returncode
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return f"{how}: {self._said[-1]}" if self._said else how


def _whole_lines(pipe: IO[bytes]) -> Iterator[str]:
    for line in pipe:
        if line.endswith(b"\n"):  # a partial line means that the process died while writing
            yield line.decode()
