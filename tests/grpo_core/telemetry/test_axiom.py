"""The Axiom sink against a loopback server that speaks Axiom's ingest endpoint."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from grpo_core.config import TelemetryConfig, build_config
from grpo_core.errors import CredentialsError
from grpo_core.home import Home
from grpo_core.telemetry import Telemetry, open_telemetry
from grpo_core.telemetry.axiom import AxiomConnection, open_axiom
from grpo_core.telemetry.delivery.background_sink import BackgroundSink
from grpo_core.telemetry.delivery.delivery import Delivery, retry_after_s
from grpo_core.telemetry.jsonl import JsonlSink
from tests.grpo_core.telemetry.ingest_server import IngestServer, running_server

AUTO = TelemetryConfig()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[IngestServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with running_server() as server:
        yield server


def telemetry_to(url: str, folder: Path, token: str = "xaat-secret") -> tuple[Telemetry, Delivery]:
    path = folder / "r.jsonl"
    delivery = Delivery(AxiomConnection(token, "grpo-test", url), path, folder / "r.axiom.json")
    return Telemetry("r", [JsonlSink(path), BackgroundSink(delivery, "grpo send --run r")]), delivery


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


def test_many_events_go_in_few_requests(server: IngestServer, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    telemetry, _ = telemetry_to(server.url, tmp_path)
    for number in range(2500):
        telemetry.emit("rollout", batch_index=number)
    telemetry.close()

    assert [event["batch_index"] for event in server.events] == list(range(2500))
    assert server.num_requests < 20
    assert warnings_in(caplog) == []


@pytest.mark.parametrize("answer", [429, 500, 503, 403, 400, "<html>", "[]", "null", "{}", '{"ingested": "x"}', "half"])
def test_an_outage_is_one_warning_and_every_event_arrives_once(
    answer: int | str, server: IngestServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.answer = answer
    telemetry, delivery = telemetry_to(server.url, tmp_path)
    for number in range(3):
        telemetry.emit("rollout", batch_index=number)
        telemetry.flush()
    assert server.events == []
    assert delivery.num_waiting == 3
    num_requests = server.num_requests
    server.answer = None
    telemetry.emit("rollout", batch_index=3)
    telemetry.close()

    assert [event["batch_index"] for event in server.events] == [0, 1, 2, 3]
    assert len({event["id"] for event in server.events}) == 4
    assert num_requests == 1  # the service has a pause
    (warning,) = warnings_in(caplog)
    assert warning.startswith("axiom: dataset 'grpo-test': ")
    assert "\n" not in warning


def test_retry_after_is_kept(server: IngestServer, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    server.answer, server.retry_after = 429, "1000"
    telemetry, _ = telemetry_to(server.url, tmp_path)
    telemetry.emit("rollout", batch_index=0)
    telemetry.flush()
    server.answer = None
    telemetry.emit("rollout", batch_index=1)
    telemetry.close()

    assert (server.num_requests, server.events) == (1, [])
    assert warnings_in(caplog)[-1] == "axiom: 2 events are still to be sent; send them with: grpo send --run r"


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, 0),
        ("30", 30),
        ("0", 0),
        ("-5", 0),
        ("99999999999", 3600),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 40),
        ("Thu, 01 Jan 1970 00:00:01 GMT", 0),
        ("soon", 0),
        ("", 0),
        ("\N{ARABIC-INDIC DIGIT THREE}", 3),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str | None, seconds: float) -> None:
    assert retry_after_s(header, now_s=60.0) == seconds


def test_a_refused_token_is_named_and_not_shown(
    server: IngestServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    telemetry, delivery = telemetry_to(server.url, tmp_path, token="xaat-wrong")
    telemetry.emit("rollout")
    telemetry.close()

    assert delivery.num_waiting == 1
    assert "API error 403: forbidden" in warnings_in(caplog)[0]
    assert "xaat-wrong" not in caplog.text


def test_nobody_listening_is_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        telemetry, delivery = telemetry_to(f"http://127.0.0.1:{unused.getsockname()[1]}", tmp_path)
        for _ in range(2):
            telemetry.emit("rollout")
            telemetry.flush()
        telemetry.close()

    assert delivery.num_waiting == 2
    first, last = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert first.startswith("axiom: dataset 'grpo-test': ")  # and no line of urllib3
    assert last.startswith("axiom: 2 events are still to be sent")


def test_any_text_arrives(server: IngestServer, tmp_path: Path) -> None:
    """Also half a character, which an environment may say; no event holds up those behind it."""
    telemetry, delivery = telemetry_to(server.url, tmp_path)
    for text in ("\ud800", "\0", "\U0001f600", "ok"):
        telemetry.emit("rollout", text=text)
    telemetry.close()

    assert [event["text"] for event in server.events][1:] == ["\0", "\U0001f600", "ok"]
    assert delivery.num_waiting == 0


def test_a_request_that_is_too_large_is_cut(server: IngestServer, tmp_path: Path) -> None:
    server.max_events = 3
    telemetry, delivery = telemetry_to(server.url, tmp_path)
    for number in range(10):
        telemetry.emit("rollout", batch_index=number)
    telemetry.close()

    assert [event["batch_index"] for event in server.events] == list(range(10))
    assert delivery.num_refused == 0


@pytest.mark.parametrize("has_times", [True, False])
def test_events_that_axiom_refuses_singly_are_counted(
    server: IngestServer, tmp_path: Path, caplog: pytest.LogCaptureFixture, has_times: bool
) -> None:
    server.num_refused, server.has_times = 2, has_times
    telemetry, delivery = telemetry_to(server.url, tmp_path)
    for number in range(5):
        telemetry.emit("rollout", batch_index=number)
    telemetry.close()

    assert delivery.num_refused == 2
    assert delivery.num_waiting == 0
    assert [event["batch_index"] for event in server.events] == [2, 3, 4]  # once each
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
        (
            {"AXIOM_TOKEN": "t", "AXIOM_DATASET": "d", "AXIOM_URL": "http://[::1"},
            "is not a URL: it must be a host",
        ),
        ({"AXIOM_TOKEN": "t", "AXIOM_DATASET": "d", "AXIOM_URL": "https://"}, "AXIOM_URL 'https://' is not a URL"),
        ({"AXIOM_TOKEN": "xaat-\u20ac", "AXIOM_DATASET": "d"}, "AXIOM_TOKEN: character 6 of 6 is"),
        ({"AXIOM_TOKEN": "xaat-1\r\n", "AXIOM_DATASET": "d"}, "AXIOM_TOKEN: character 7 of 8 is a line end"),
        ({"AXIOM_TOKEN": "t", "AXIOM_DATASET": "d", "AXIOM_ORG_ID": " o"}, "AXIOM_ORG_ID: character 1 of 2 is"),
    ],
)
def test_half_a_configuration_is_one_clear_line(environment: dict[str, str], message: str) -> None:
    with pytest.raises(CredentialsError, match=message) as caught:
        open_axiom(AUTO, environment)

    assert "\n" not in str(caught.value)
    assert "xaat-" not in str(caught.value)
