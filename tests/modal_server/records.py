"""What the rooms share: apps, functions, calls and their inputs."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from modal_proto import api_pb2

from tests.modal_server.bell import Bell

if TYPE_CHECKING:
    from tests.modal_server.containers import Container

_numbers = itertools.count(1)


def new_id(prefix: str) -> str:
    """An id as Modal makes them: ``ap-...``, ``fu-...``."""
    return f"{prefix}-{next(_numbers):08d}"


@dataclass(eq=False, slots=True)
class App:
    """One run or one deployment."""

    id: str
    name: str
    state: int
    environment: str
    function_ids: dict[str, str] = field(default_factory=dict)
    class_ids: dict[str, str] = field(default_factory=dict)
    created_at: float = field(default_factory=time.time)
    deployed_at: float = 0.0
    version: int = 0
    seen_at: float = field(default_factory=time.monotonic)
    """When its client was last heard of (monotonic)."""
    is_stopped: bool = False
    is_done: bool = False
    """Stopped, and the last of its containers has ended."""


@dataclass(eq=False, slots=True)
class Function:
    """A function, a class, or either with parameters or options bound."""

    id: str
    app_id: str
    definition: api_pb2.Function
    metadata: api_pb2.FunctionHandleMetadata
    serialized_params: bytes = b""
    num_crashes: int = 0
    """In a row."""

    @property
    def name(self) -> str:
        return self.definition.function_name

    @property
    def max_concurrent_inputs(self) -> int:
        return self.definition.max_concurrent_inputs or 1

    def placement(self, environment: str) -> Placement:
        gpu = self.definition.resources.gpu_config
        return Placement(
            gpu=f"{gpu.gpu_type}:{gpu.count}" if gpu.count else "",
            regions=tuple(self.definition.scheduler_placement.regions),
            timeout_s=self.definition.timeout_secs,
            environment=environment,
        )


@dataclass(frozen=True, slots=True)
class Placement:
    """What was asked of Modal for a container."""

    gpu: str
    """Type and count, as ``H100:2``; empty without one."""
    regions: tuple[str, ...]
    timeout_s: int
    environment: str


InputState = Literal["pending", "running", "done"]


@dataclass(eq=False, slots=True)
class Input:
    id: str
    idx: int
    call: Call
    payload: api_pb2.FunctionInput
    state: InputState = "pending"
    container: Container | None = None
    num_failures: int = 0
    is_cancelled: bool = False
    started_at: float = 0.0


@dataclass(eq=False, slots=True)
class Call:
    """One ``.remote``, ``.spawn`` or ``.map``."""

    id: str
    function: Function
    invocation_type: int
    parent_input_id: str = ""
    inputs: dict[str, Input] = field(default_factory=dict)
    outputs: list[api_pb2.FunctionGetOutputsItem] = field(default_factory=list)
    chunks: dict[int, api_pb2.DataChunk] = field(default_factory=dict)
    """What a generator has yielded, by its number from 1. An attempt that starts again writes the same numbers."""
    changed: Bell = field(default_factory=Bell)
    created_at: float = field(default_factory=time.time)

    @property
    def num_unfinished(self) -> int:
        return sum(one.state != "done" for one in self.inputs.values())
