"""One side of a comparison, as the session sees it: a worker that runs the side's tests and measures their arms."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_grpo.against.plugin_path import UNSHADOWED, environment_with_plugin
from pytest_grpo.against.protocol import PROTOCOL_VERSION, Channel, ChannelClosedError, Message
from pytest_grpo.sides.trees import SideTree
from pytest_grpo.types import SIDE_PLUGIN, Sample

END_TIMEOUT_S = 5
TAIL_BYTES = 4000
_INTERNAL_ERROR = re.compile(r"INTERNALERROR> ([\w.]+(?:Error|Exception|Exit): .*)")
_USAGE_ERROR = re.compile(r".*pytest.*: error: ")
_COLLECTED = re.compile(r"^(collecting \.\.\. )?collected \d+ items?")
_PROGRESS = re.compile(r"(\S+\.py\S*)?\s*([.FEsxXR]+|[A-Z]{5,7}( \(.*\))?)?(\s+\[ *\d+%\])?")
"""How pytest shows tests as they end: no reason for anything."""


class SideError(RuntimeError):
    """Something happened on the side of that name."""

    def __init__(self, side: str, reason: str) -> None:
        super().__init__(reason)
        self.side = side


class SideLostError(SideError):
    """The worker has died or hangs. It is no verdict: what it should have measured cannot be compared."""


class ArmRaisedError(SideError):
    """An arm has raised an error; its test reports it."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Where a test has stopped: at ``arms`` that wait to be measured, or, without any, at its end."""

    arms: tuple[str, ...] = ()
    wanted: tuple[str, ...] = ()
    """The quantities that the test's assertion compares; none when it only asks for counts."""
    is_new: bool = True
    """Whether these arms are met for the first time."""
    max_cores_of_others: float | None = None
    """The test's own limit."""
    reports: tuple[Message, ...] = ()
    imported: tuple[str, ...] = ()
    """Files of the project that the worker has loaded, relative to its root."""

    @classmethod
    def of(cls, message: Message) -> Stop:
        fields = {name: tuple(message.get(name, ())) for name in ("arms", "wanted", "reports", "imported")}
        return cls(**fields, is_new=message.get("is_new", True), max_cores_of_others=message.get("max_cores_of_others"))


@dataclass(slots=True)
class Side:
    """A worker on ``tree``. It starts with the first question, in a process group of its own."""

    tree: SideTree
    arguments: Sequence[str]
    """pytest's, files included."""
    timeout_s: float
    """How long an answer may take."""
    collected: frozenset[str] = frozenset()
    selected: frozenset[str] = frozenset()
    """Those of ``collected`` that the session's options select."""
    errors: Mapping[str, str] = field(default_factory=dict)
    """Per file or node id, why it was not collected."""
    device: str = ""
    _process: subprocess.Popen[bytes] | None = None
    _channel: Channel | None = None
    _scratch: tempfile.TemporaryDirectory[str] | None = None

    @property
    def name(self) -> str:
        return self.tree.name

    @property
    def pid(self) -> int | None:
        """The worker's process id; None while it does not run."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the worker and let it collect, unless it runs.

        Raises:
            SideLostError: it cannot start, or speaks another protocol.
        """
        if self._channel is not None:
            return
        own, theirs = socket.socketpair()
        self._scratch = tempfile.TemporaryDirectory(prefix="grpo-side-")
        output = Path(self._scratch.name) / "output.txt"
        with theirs, output.open("wb") as file:
            self._process = subprocess.Popen(
                self._command(theirs.fileno()),
                cwd=self.tree.root,
                env=environment_with_plugin(self.tree.python, Path(self._scratch.name), self.tree.import_path),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        self._channel = Channel(own)
        hello = self._receive("hello")
        if hello["protocol"] != PROTOCOL_VERSION:
            raise SideLostError(self.name, f"it speaks protocol {hello['protocol']}, this session {PROTOCOL_VERSION}")
        self.collected, self.selected = frozenset(hello["collected"]), frozenset(hello["selected"])
        self.errors = hello["errors"]
        self.device = hello["device"]

    def run(self, nodeid: str, following: str | None) -> Stop:
        """Run a test until its arms wait, or to its end. Fixtures that the test ``following`` needs stay."""
        self.start()
        self._send({"do": "run", "nodeid": nodeid, "next": following if following in self.collected else None})
        return Stop.of(self._receive("arms", "done"))

    def release(self) -> Stop:
        """Let the test go on, until other arms wait or to its end."""
        self._send({"do": "release"})
        return Stop.of(self._receive("arms", "done"))

    def wait(self) -> Stop:
        """Where the test stops next, after one of its arms raised an error."""
        return Stop.of(self._receive("arms", "done"))

    def measure(self, arm: str, repeats: int) -> Sample:
        """One sample, the mean of ``repeats`` runs."""
        self._send({"do": "measure", "arm": arm, "repeats": repeats})
        answer = self._receive("sample", "raised")
        return Sample(answer["seconds"], answer["quantities"], spans=answer["spans"])

    def took_s(self, arm: str, repeats: int) -> float:
        """Seconds of one run, from ``repeats`` runs that do not count."""
        self._send({"do": "time", "arm": arm, "repeats": repeats})
        return self._receive("took", "raised")["seconds"]

    def answer(self, arm: str) -> tuple[Any, str]:
        """The output of the arm's first run as JSON, and why there is none."""
        self._send({"do": "answer", "arm": arm})
        answer = self._receive("answer")
        return answer["value"], answer["missing"]

    def difference(self, arm: str, other: object, name: str) -> tuple[str, str, str]:
        """How this side's answer differs from ``other``, that of the side ``name``, by which rule, and why nothing was
        found."""
        self._send({"do": "compare", "arm": arm, "other": other, "name": name})
        answer = self._receive("difference")
        return answer["text"], answer["by"], answer["missing"]

    def close(self) -> None:
        """End the worker and all processes of its group. Nothing is left, whatever it does."""
        if self._process is None:
            return
        assert self._scratch is not None
        try:
            if self._channel is not None:
                self._channel.send({"do": "end"})
                self._process.wait(END_TIMEOUT_S)
        except (ChannelClosedError, subprocess.TimeoutExpired):
            pass  # it is killed below
        finally:  # a second Ctrl-C while it ends included
            if self._channel is not None:
                self._channel.close()
            self._kill()
            self._scratch.cleanup()
            self._process, self._channel = None, None

    def _kill(self) -> None:
        assert self._process is not None
        with suppress(ProcessLookupError):  # the whole group has ended
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _command(self, fd: int) -> list[str]:
        plugin = ["-p", SIDE_PLUGIN, f"--grpo-side-fd={fd}"]
        return [str(self.tree.python), *UNSHADOWED, "-m", "pytest", *plugin, *self.arguments]

    def _send(self, message: Message) -> None:
        assert self._channel is not None, "started by run"
        try:
            self._channel.send(message)
        except ChannelClosedError:
            raise self._lost() from None

    def _receive(self, *expected: str) -> Message:
        """The next message, one of those ``expected``."""
        assert self._channel is not None
        try:
            message = self._channel.receive(self.timeout_s)
        except ChannelClosedError:
            raise self._lost() from None
        except TimeoutError:
            error = SideLostError(self.name, f"it did not answer for {self.timeout_s:.0f} s")
            self._kill()
            self.close()
            raise error from None
        assert message["say"] in (*expected, "raised"), message
        if message["say"] == "raised":
            raise ArmRaisedError(self.name, message["error"])
        return message

    def _lost(self) -> SideLostError:
        """How the worker ended; it can be started anew afterwards."""
        assert self._process is not None
        assert self._scratch is not None
        try:
            code = self._process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._kill()
            code = self._process.wait()
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        with (Path(self._scratch.name) / "output.txt").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            said = file.read().decode(errors="replace").strip().splitlines()
        errors = [line.removeprefix("ERROR: ") for line in said if line.startswith("ERROR: ")]
        collected = max((place for place, line in enumerate(said, 1) if _COLLECTED.search(line)), default=0)
        told = [line for line in said[collected:] if line and not _PROGRESS.fullmatch(line)]
        usage = [line.partition(": error: ")[2] for line in said if _USAGE_ERROR.match(line)]
        internal = [found[1] for line in said if (found := _INTERNAL_ERROR.fullmatch(line))]
        last = (usage or errors or internal or told or ["it said nothing"])[-1].removeprefix("E ").strip()
        self.close()
        return SideLostError(self.name, f"its process ended ({how}): {last}")
