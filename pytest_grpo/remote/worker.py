"""The worker that runs a phase: a container on Modal or a clean local process. Runs pytest and yields its events.

``python -m pytest_grpo.remote.worker SCRATCH`` reads a request from its standard input and writes messages to its
standard output; it ends when its input does. Imports only the standard library.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import BinaryIO

from pytest_grpo.packaged import file_arguments
from pytest_grpo.remote.project_files import unpack
from pytest_grpo.remote.protocol import MAX_MESSAGE_BYTES, Request, encode, number_texts
from pytest_grpo.types import CHILD_PLUGIN

OUTPUT_TAIL_BYTES = 2000
POLL_INTERVAL_S = 0.02
STOP_TIMEOUT_S = 5
_NOT_INHERITED = ("PYTEST_ADDOPTS", "PYTEST_CURRENT_TEST", "PYTEST_XDIST_WORKER", "GITHUB_STEP_SUMMARY")
_PLUGIN = "pytest_grpo.plugin"


def serve(request: str, files: bytes, call_id: str | None = None) -> Iterator[str]:
    """Run ``request`` in a new folder with ``files``, an archive of the project.

    Yields messages (see ``remote.protocol.Decoder``), one or more lines of JSON at a time, as they happen. ``call_id``
    is the id of this call, with which the session can cancel it. docs/remote-phases.md has an app that uses it.
    """
    yield from number_texts(_serve(request, files, call_id), secrets.token_hex(8))


def _serve(request: str, files: bytes, call_id: str | None) -> Iterator[str]:
    yield json.dumps({"event": "begun", "call_id": call_id})
    with tempfile.TemporaryDirectory(prefix="grpo-worker-") as scratch:
        folder = Path(scratch).resolve() / "project"
        unpack(files, folder)
        yield from run_pytest(Request.from_json(request), folder, Path(scratch))


def run_pytest(request: Request, folder: Path, scratch: Path) -> Iterator[str]:
    """Run ``request`` in a new pytest process. ``scratch`` is an empty folder for other files than the project's."""
    events, output = scratch / "events.jsonl", scratch / "output.txt"
    events.touch()
    with output.open("wb") as stdout:
        process = subprocess.Popen(
            _command(request, events, scratch),
            cwd=folder,
            env=worker_environment(),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.STDOUT,
        )
    there, here = (json.dumps(path)[1:-1] for path in (str(folder), request.root))
    try:
        with events.open("rb") as file:
            for lines in _follow(process, file):
                yield from _pack(line if there == here else line.replace(there, here) for line in lines)
    finally:
        _stop(process)
    with output.open("rb") as file:
        file.seek(max(0, output.stat().st_size - OUTPUT_TAIL_BYTES))
        tail = file.read().decode(errors="replace").replace(str(folder), request.root)
    yield json.dumps({"event": "end", "exit_code": process.returncode, "output_tail": tail})


def _command(request: Request, events: Path, scratch: Path) -> list[str]:
    request_file = scratch / "request.json"
    request_file.write_text(request.to_json(), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-p", CHILD_PLUGIN, *request.arguments]
    command += [f"--grpo-request-file={request_file}", f"--grpo-report-file={events}"]
    for number, text in reversed(list(enumerate(request.baselines))):
        baseline = scratch / "baselines" / f"{number}.json"
        baseline.parent.mkdir(exist_ok=True)
        baseline.write_text(text, encoding="utf-8")
        command += [f"--grpo-compare={baseline}"] if number == 0 else []
    return [*command, *file_arguments(node_id.partition("::")[0] for node_id in request.node_ids)]


def worker_environment(*, is_installed: bool | None = None) -> dict[str, str]:
    """This process's environment, with the plugin loaded exactly once: by entry point, or else by PYTEST_PLUGINS.

    ``is_installed`` says whether the worker's Python has the entry point; by default it is this process's Python.
    """
    environment = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
    loads_entry_points = not environment.get("PYTEST_DISABLE_PLUGIN_AUTOLOAD")
    named = [name for name in environment.pop("PYTEST_PLUGINS", "").split(",") if name and name != _PLUGIN]
    if is_installed is None:
        is_installed = any(entry.value == _PLUGIN for entry in entry_points(group="pytest11"))
    if not (loads_entry_points and is_installed):
        named.append(_PLUGIN)
    return environment | ({"PYTEST_PLUGINS": ",".join(named)} if named else {})


def _follow(process: subprocess.Popen[bytes], file: BinaryIO) -> Iterator[list[str]]:
    """The complete lines that ``process`` appends to ``file``, until it ends."""
    unfinished = b""
    while True:
        has_ended = process.poll() is not None  # checked before reading, so that the last output is read too
        *lines, unfinished = (unfinished + file.read()).split(b"\n")
        if lines:
            yield [line.decode() for line in lines]
        elif has_ended:
            return
        else:
            time.sleep(POLL_INTERVAL_S)


def _pack(lines: Iterator[str]) -> Iterator[str]:
    """Messages of ``lines``, several per text up to ``MAX_MESSAGE_BYTES``."""
    batch: list[str] = []
    num_bytes = 0
    for line in lines:
        for message in encode(line):
            if batch and num_bytes + len(message) > MAX_MESSAGE_BYTES:
                yield "\n".join(batch)
                batch, num_bytes = [], 0
            batch.append(message)
            num_bytes += len(message)
    if batch:
        yield "\n".join(batch)


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def main() -> None:
    request = Request.from_json(sys.stdin.buffer.readline().decode())
    scratch = Path(sys.argv[1])
    threading.Thread(target=_end_with_input, args=(scratch,), daemon=True).start()
    print(json.dumps({"event": "begun", "call_id": None}), flush=True)
    for text in run_pytest(request, Path.cwd(), scratch):
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


def _end_with_input(scratch: Path) -> None:
    """When the session is gone, kill this process and its pytest, which share a process group."""
    sys.stdin.buffer.read()
    shutil.rmtree(scratch, ignore_errors=True)  # the killed session could not remove it
    os.killpg(os.getpgrp(), signal.SIGTERM)


if __name__ == "__main__":
    main()
