"""Where the time of a step goes: torch profiler traces with the project's own annotations in them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from grpo_core.errors import HomeError, SnapshotError, shown
from grpo_core.home import make_folder, parse_json

TRACE_FILE = "trace.json"


@dataclass(frozen=True, slots=True)
class AnnotationSummary:
    """All annotations of one name. ``total_ms`` adds them up, also where they overlap in different threads."""

    count: int
    total_ms: float


@dataclass(frozen=True, slots=True)
class TraceSummary:
    """A trace: its annotations by name, and how many events it holds in all."""

    annotations: Mapping[str, AnnotationSummary]
    num_events: int


@contextmanager
def trace(folder: Path, enabled: bool = True) -> Iterator[None]:
    """Profiles the block, in all threads, and writes ``folder/trace.json`` (Chrome trace format) unless it raises.

    Raises:
        HomeError: the folder cannot be written. Checked before the block runs.
    """
    if not enabled:
        yield
        return
    make_folder(folder)
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler reports a missing GPU on stderr as an error
    import torch
    from torch._C._profiler import _ExperimentalConfig
    from torch.autograd.profiler import profile  # what torch.profiler drives, without its 4 s import of the compiler

    all_threads = _ExperimentalConfig(profile_all_threads=True)  # rollouts have a thread of their own
    device = "cuda" if torch.cuda.is_available() else None
    profiler = profile(use_device=device, use_kineto=True, acc_events=True, experimental_config=all_threads)
    with profiler:
        yield
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".trace.") as scratch:
            written = Path(scratch) / TRACE_FILE
            profiler.export_chrome_trace(str(written))
            written.chmod(0o600)
            written.replace(folder / TRACE_FILE)
    except OSError as error:
        raise HomeError(f"cannot write {folder / TRACE_FILE}: {error.strerror}; free space or set GRPO_HOME") from error


def read_trace(path: Path) -> TraceSummary:
    """What ``torch.profiler.record_function`` left in a trace. ``path`` is the file, or the folder it was written to.

    Raises:
        SnapshotError: the file is missing or is not a Chrome trace.
    """
    file = path / TRACE_FILE if path.is_dir() else path
    try:
        events = parse_json(file.read_bytes())["traceEvents"]
        named = [event for event in events if event.get("cat") == "user_annotation"]
        durations_us = [(str(event["name"]), float(event["dur"])) for event in named]
    except OSError as error:
        raise SnapshotError(f"trace {file}: {error.strerror}; profile again, or give the folder of a trace") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = shown(error)
        raise SnapshotError(f"trace {file}: not a Chrome trace ({reason}); delete it and profile again") from error
    return TraceSummary(_by_name(durations_us), len(events))


def _by_name(durations_us: list[tuple[str, float]]) -> dict[str, AnnotationSummary]:
    found: dict[str, AnnotationSummary] = {}
    for name, duration_us in durations_us:
        before = found.get(name, AnnotationSummary(0, 0.0))
        found[name] = AnnotationSummary(before.count + 1, before.total_ms + duration_us / 1000)
    return found
