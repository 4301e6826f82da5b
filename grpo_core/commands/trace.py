"""``grpo trace``: the profiler's trace in Perfetto, in the browser."""

from __future__ import annotations

import argparse
import webbrowser
from pathlib import Path

from rich.console import Console

from grpo_core.errors import ConfigError
from grpo_core.home import Home, check_name


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the profile's name: its --profile-name")
    parser.add_argument("--no-browser", action="store_true", help="only say how to open it")


def run(flags: argparse.Namespace, console: Console) -> int:
    """Serve the trace to Perfetto's page until it has loaded it; without a browser, say how to load it."""
    from grpo_core.telemetry.traces.perfetto import TraceServer

    path = _trace_of(Home.from_environment(), flags.name)
    if flags.no_browser or not _has_browser():
        console.print(f"open https://ui.perfetto.dev, choose 'Open trace file', and give it {path}", soft_wrap=True)
        return 0
    with TraceServer(path) as server:
        console.print(f"Perfetto loads {path} from this machine; Ctrl-C ends the waiting", soft_wrap=True)
        webbrowser.open(server.url)
        server.wait_until_loaded()
    return 0


def _trace_of(home: Home, name: str) -> Path:
    from grpo_core.telemetry.traces.profiler import TRACE_FILE

    path = home.traces / check_name(name, "NAME") / TRACE_FILE
    if not path.is_file():
        present = ", ".join(sorted(file.parent.name for file in home.traces.glob(f"*/{TRACE_FILE}"))) or "none"
        raise ConfigError(
            f"{name}: no trace of this name in {home.traces}; there are: {present}; grpo profile --profile-name {name} "
            "writes one"
        )
    return path


def _has_browser() -> bool:
    try:
        webbrowser.get()
    except webbrowser.Error:
        return False
    return True
