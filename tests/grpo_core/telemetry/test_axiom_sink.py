"""The Axiom sink against a loopback server that speaks Axiom's ingest endpoint."""

from __future__ import annotations

import gzip
import json
import logging
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from grpo_core.config import TelemetryConfig, build_config
from grpo_core.errors import CredentialsError
from grpo_core.home import Home
from grpo_core.telemetry import Telemetry, open_telemetry
from grpo_core.telemetry.axiom_sink import AxiomConnection, open_axiom
from grpo_core.telemetry.background import BackgroundSink

AUTO = TelemetryConfig()


class IngestServer(ThreadingHTTPServer):
    """Checks what it gets as Axiom does, and keeps it. ``answer`` is a status to give instead of taking events."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _IngestHandler)
        self.answer: int | None = None
        self.num_refused = 0
        self.num_requests = 0
        self.events: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.got_events = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _IngestHandler(BaseHTTPRequestHandler):
    server: IngestServer  # type: ignore[assignment]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.num_requests += 1
        self.server.paths.append(self.path)
        if self.headers["Authorization"] != "Bearer xaat-secret":
            return self._reply(403, {"code": 403, "message": "forbidden"})
        if self.server.answer is not None:
            return self._reply(self.server.answer, {"message": "out of order"})
        if (self.headers["Content-Type"], self.headers["Content-Encoding"]) != ("application/x-ndjson", "gzip"):
            return self._reply(415, {"message": "only gzipped ndjson"})
        events = [json.loads(line) for line in gzip.decompress(body).decode().split("\n")]
        taken = events[self.server.num_refused :]
        self.server.events += taken
        failures = [{"timestamp": event["_time"], "error": "bad field"} for event in events[: self.server.num_refused]]
        self._reply(
            200,
            {
                "ingested": len(taken),
                "failed": len(failures),
                "failures": failures,
                "processedBytes": len(body),
                "blocksCreated": 0,
                "walLength": len(taken),
            },
        )
        self.server.got_events.set()

    def _reply(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[IngestServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with IngestServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def telemetry_to(url: str, token: str = "xaat-secret") -> tuple[Telemetry, BackgroundSink]:
    sink = BackgroundSink(AxiomConnection(token, "grpo-test", url))
    return Telemetry("r", [sink]), sink


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record for record in caplog.records if record.name.startswith("grpo_core")]
    return [record.getMessage() for record in found if record.levelno == logging.WARNING]


def test_events_of_the_environments_dataset_arrive_by_themselves(
    server: IngestServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in {"TOKEN": "xaat-secret", "DATASET": "grpo-test", "URL": server.url}.items():
        monkeypatch.setenv(f"AXIOM_{name}", value)
    home = Home(data=tmp_path / "data", traces=tmp_path / "traces")
    with open_telemetry(build_config({"run": "abc", "telemetry": {"wandb": "off"}}), home) as telemetry:
        telemetry.emit("train_step", step=1, loss=float("nan"), kl=0.5)
        assert server.got_events.wait(30)  # neither flushed nor closed

    (event,) = server.events
    assert server.paths == ["/v1/datasets/grpo-test/ingest"]
    (line,) = (tmp_path / "data/events/abc.jsonl").read_text().splitlines()
    assert event == json.loads(line)
    assert (event["kind"], event["run"], event["step"], event["loss"], event["kl"]) == (
        "train_step",
        "abc",
        1,
        None,
        0.5,
    )
    assert event["_time"].endswith("Z")


def test_many_events_go_in_few_requests(server: IngestServer, caplog: pytest.LogCaptureFixture) -> None:
    telemetry, _ = telemetry_to(server.url)
    for number in range(2500):
        telemetry.emit("rollout", batch_index=number)
    telemetry.close()

    assert [event["batch_index"] for event in server.events] == list(range(2500))
    assert server.num_requests < 20
    assert warnings_in(caplog) == []


@pytest.mark.parametrize(("status", "num_requests"), [(500, 2), (400, 1)])
def test_events_arrive_after_server_errors_with_one_warning(
    status: int, num_requests: int, server: IngestServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.answer = status
    telemetry, sink = telemetry_to(server.url)
    telemetry.emit("rollout", batch_index=0)
    telemetry.flush()
    assert server.num_requests == num_requests  # a server error is tried once more at once
    telemetry.emit("rollout", batch_index=1)
    telemetry.flush()
    server.answer = None
    telemetry.emit("rollout", batch_index=2)
    telemetry.close()

    assert [event["batch_index"] for event in server.events] == [0, 1, 2]
    assert sink.num_lost == 0
    (warning,) = warnings_in(caplog)
    assert "axiom: dataset 'grpo-test': API error" in warning
    assert f"{status}" in warning


def test_a_refused_token_is_named(server: IngestServer, caplog: pytest.LogCaptureFixture) -> None:
    telemetry, sink = telemetry_to(server.url, token="xaat-wrong")
    telemetry.emit("rollout")
    telemetry.close()

    assert sink.num_lost == 1
    assert "API error 403: forbidden" in warnings_in(caplog)[0]


def test_nobody_listening_costs_the_events_and_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        telemetry, sink = telemetry_to(f"http://127.0.0.1:{unused.getsockname()[1]}")
        for _ in range(2):
            telemetry.emit("rollout")
            telemetry.flush()
        telemetry.close()

    assert sink.num_lost == 2
    assert len(warnings_in(caplog)) == 1


def test_events_that_axiom_refuses_singly_are_counted(server: IngestServer, caplog: pytest.LogCaptureFixture) -> None:
    server.num_refused = 2
    telemetry, sink = telemetry_to(server.url)
    for number in range(5):
        telemetry.emit("rollout", batch_index=number)
    telemetry.close()

    assert sink.num_lost == 2
    assert "refused 2 events: bad field" in warnings_in(caplog)[0]


@pytest.mark.parametrize("environment", [{}, {"AXIOM_URL": "https://x"}, {"AXIOM_TOKEN": "", "AXIOM_DATASET": ""}])
def test_it_is_off_without_credentials(environment: dict[str, str]) -> None:
    assert open_axiom(AUTO, environment) is None


def test_it_is_off_when_told_so_whatever_the_environment_says() -> None:
    assert open_axiom(TelemetryConfig(axiom="off"), {"AXIOM_TOKEN": "t"}) is None


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"AXIOM_TOKEN": "t"}, "AXIOM_TOKEN is set without AXIOM_DATASET"),
        ({"AXIOM_DATASET": "d"}, "AXIOM_DATASET is set without AXIOM_TOKEN"),
        ({"AXIOM_TOKEN": "t", "AXIOM_DATASET": "d", "AXIOM_URL": "axiom.co"}, "AXIOM_URL 'axiom.co' is not a URL"),
    ],
)
def test_half_a_configuration_is_one_clear_line(environment: dict[str, str], message: str) -> None:
    with pytest.raises(CredentialsError, match=message) as caught:
        open_axiom(AUTO, environment)

    assert "\n" not in str(caught.value)
