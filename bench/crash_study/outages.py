"""A service that is away, slow, or answers nonsense while a run trains: steps take no longer, no event is lost."""

from __future__ import annotations

import gzip
import json
import os
import random
import subprocess
import sys
import threading
import time
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import mean, median
from typing import Any

from bench.crash_study.runs import RUN, Case, home_of
from pytest_grpo.measuring.statistics.sign_test import interval

FAULTS = ("away", "slow", "429", "500", "html", "half")
SLOW_S = 4.0
WARMUP_STEPS = 5

Window = tuple[float, str | None]
"""Since when the service has which fault; every other window has none."""


class Service(ThreadingHTTPServer):
    """Axiom's ingest endpoint. ``fault`` is what is wrong with it, None for nothing."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.fault: str | None = None
        self.ids: Counter[str] = Counter()
        self.order: list[str] = []


class _Handler(BaseHTTPRequestHandler):
    server: Service  # type: ignore[assignment]

    def do_POST(self) -> None:
        fault = self.server.fault
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if fault == "away":
            self.connection.close()
            return
        if fault == "slow":
            time.sleep(SLOW_S)
        if fault in ("429", "500"):
            self._reply(int(fault), b'{"message": "out of order"}')
            return
        if fault == "html":
            self._reply(200, b"<html>log in first</html>")
            return
        records = [json.loads(line) for line in gzip.decompress(body).splitlines()]
        for record in records:
            if not self.server.ids[record["id"]]:
                self.server.order.append(record["id"])
            self.server.ids[record["id"]] += 1
        answer = {"ingested": len(records), "failed": 0, "failures": [], "processedBytes": 0, "blocksCreated": 0}
        self._reply(200, json.dumps({**answer, "walLength": 0}).encode(), is_cut=fault == "half")

    def _reply(self, status: int, body: bytes, *, is_cut: bool = False) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if status == 429:
            self.send_header("Retry-After", "2")
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if is_cut else body)
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Outages:
    """How much longer a step took while the service had a fault: the median over its windows, with its interval."""

    num_events: int
    num_sent_twice: int  # their first answer was lost
    num_steps: int
    slower: float
    low: float
    high: float
    num_lines: int  # on the terminal, of the service


def study_outages(case: Case, duration_s: float, window_s: float, model: Path, folder: Path, seed: int) -> Outages:
    """Train for ``duration_s`` while the service has a fault in every other window, and let it end.

    Raises:
        AssertionError: an event is lost or out of order.
    """
    rng = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    windows: list[Window] = []
    with _running() as service, _training(case, model, folder, service) as process:
        ends = time.monotonic() + duration_s
        while time.monotonic() < ends and process.poll() is None:
            service.fault = rng.choice(FAULTS) if len(windows) % 2 else None
            windows.append((time.time(), service.fault))
            time.sleep(window_s)
        service.fault = None
        process.terminate()
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 143, errors[-2000:]
        _send_rest(folder, service)
        written = [json.loads(line) for line in _lines(folder)]
        assert service.order == [record["id"] for record in written], "events are lost, or out of order"
    steps = [(record["time"], record["step_s"]) for record in written if record["kind"] == "train_step"][WARMUP_STEPS:]
    found = interval(window_ratios(windows, steps))
    lines = [line for line in errors.splitlines() if "axiom" in line or "urllib3" in line]
    twice = sum(count > 1 for count in service.ids.values())
    return Outages(len(written), twice, len(steps), found.median, found.low, found.high, len(lines))


def window_ratios(windows: Sequence[Window], steps: Sequence[tuple[float, float]]) -> list[float]:
    """The median step of each window with a fault over that of the windows around it.

    Another program takes the machine for longer than a step, so steps of one window are no independent values.

    Args:
        windows: since when, and with which fault, in order of time.
        steps: when each step ended, and its seconds.
    """
    starts = [since for since, _ in windows]
    by_window: dict[int, list[float]] = defaultdict(list)
    for at, step_s in steps:
        by_window[bisect_right(starts, at) - 1].append(step_s)
    ratios = []
    for index in range(1, len(windows), 2):
        around = [median(by_window[near]) for near in (index - 1, index + 1) if near in by_window]
        if index in by_window and around:
            ratios.append(median(by_window[index]) / mean(around))
    return ratios


def _lines(folder: Path) -> list[str]:
    return (home_of(folder).events / f"{RUN}.jsonl").read_text().splitlines()


@contextmanager
def _running() -> Iterator[Service]:
    with Service() as service:
        thread = threading.Thread(target=service.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield service
        finally:
            service.shutdown()
            thread.join()


@contextmanager
def _training(case: Case, model: Path, folder: Path, service: Service) -> Iterator[subprocess.Popen[str]]:
    arguments = [*case.arguments(model), "--steps", "1000000", "--set", "telemetry.axiom=auto"]
    process = subprocess.Popen(
        [sys.executable, "-m", "grpo_core.cli", *arguments],
        env=_environment(folder, service),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _send_rest(folder: Path, service: Service) -> None:
    command = [sys.executable, "-m", "grpo_core.cli", "send", "--run", RUN]
    sent = subprocess.run(
        command, env=_environment(folder, service), capture_output=True, text=True, timeout=120, check=False
    )
    assert sent.returncode == 0, sent.stdout + sent.stderr


def _environment(folder: Path, service: Service) -> dict[str, str]:
    url = f"http://127.0.0.1:{service.server_port}"
    axiom = {"AXIOM_TOKEN": "xaat-study", "AXIOM_DATASET": "study", "AXIOM_URL": url}
    return {**os.environ, **axiom, "GRPO_HOME": str(folder), "NO_PROXY": "127.0.0.1"}
