"""What a step costs with Axiom, W&B and OpenTelemetry all on: phase 1's gate beside services on the loopback.

    uv run python -m bench.telemetry_cost

W&B runs offline. Arguments go to pytest: ``--grpo-budget 60`` gives the gate a minute. The services are in this process
and training in another one, on the same cores; they only count what they get, which takes less than a tenth of what
sending it takes. What each thread takes for a step is said before (``bench/telemetry_threads.py``).
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("test_phase1_instrumentation.py")
THREADS = ("-m", "bench.telemetry_threads")
COMMAND = ("-m", "pytest", f"{FILE}::test_telemetry_costs_next_to_nothing", "--phase", "1")


class Services(ThreadingHTTPServer):
    """Axiom's ingest endpoint and an OTLP collector. ``num_requests`` is by the last word of the address."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.num_requests: Counter[str] = Counter()

    @property
    def environment(self) -> Mapping[str, str]:
        url = f"http://127.0.0.1:{self.server_port}"
        axiom = {"AXIOM_TOKEN": "xaat-cost", "AXIOM_DATASET": "cost", "AXIOM_URL": url}
        return {**axiom, "OTEL_EXPORTER_OTLP_ENDPOINT": url, "WANDB_MODE": "offline", "NO_PROXY": "127.0.0.1"}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections stay open, as those of real services do
    server: Services  # type: ignore[assignment]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        name = self.path.rpartition("/")[2]
        self.server.num_requests[name] += 1
        if name == "ingest":
            num_events = len(gzip.decompress(body).splitlines())
            answer = {"ingested": num_events, "failed": 0, "failures": [], "processedBytes": len(body)}
            self._reply("application/json", json.dumps({**answer, "blocksCreated": 0, "walLength": 0}).encode())
        else:
            self._reply("application/x-protobuf", b"")  # nothing was refused

    def _reply(self, content_type: str, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """The terminal is the gate's."""


def main() -> int:
    """pytest's exit code; 1 if a service got nothing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    _, options = parser.parse_known_args()
    with Services() as services:
        threading.Thread(target=services.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        environment = {**os.environ, **services.environment}
        if sys.platform == "linux":  # no other system has a clock of each thread
            subprocess.run([sys.executable, *THREADS], env=environment, check=True)
            services.num_requests.clear()
        ended = subprocess.run([sys.executable, *COMMAND, *options], env=environment, check=False)
        services.shutdown()
    print("requests:", ", ".join(f"{count} {name}" for name, count in sorted(services.num_requests.items())))
    return ended.returncode or int(set(services.num_requests) != {"ingest", "traces", "metrics"})


if __name__ == "__main__":
    sys.exit(main())
