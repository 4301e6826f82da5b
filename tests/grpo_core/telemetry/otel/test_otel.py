"""OpenTelemetry against a loopback server that speaks OTLP/HTTP."""

from __future__ import annotations

import json
import logging
import socket
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from grpo_core.config import build_config
from grpo_core.errors import CredentialsError
from grpo_core.home import Home
from grpo_core.ledger.account import Account, Interval
from grpo_core.schedule.accounting.events import emit_accounts
from grpo_core.telemetry import Telemetry, open_telemetry
from grpo_core.telemetry.delivery.background_sink import BackgroundSink
from grpo_core.telemetry.delivery.delivery import Delivery, DeliveryError
from grpo_core.telemetry.jsonl import JsonlSink
from grpo_core.telemetry.otel.connection import OtelConnection, open_otel
from grpo_core.telemetry.otel.metrics import Totals
from tests.grpo_core.telemetry.otel.otlp_server import PROTOBUF, OtlpServer, running_server, values_of

CONFIG = build_config({"run": "abc", "telemetry": {"wandb": "off"}})
START_S = 1_795_980_000.0


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[OtlpServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with running_server() as server:
        yield server


def telemetry_to(url: str, folder: Path, environment: Mapping[str, str] | None = None) -> tuple[Telemetry, Delivery]:
    path = folder / "r.jsonl"
    delivery = Delivery(OtelConnection(CONFIG, url, environment or {}), path, folder / "r.otel.json")
    return Telemetry("r", [JsonlSink(path), BackgroundSink(delivery, "grpo send --run r")]), delivery


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record for record in caplog.records if record.name.startswith("grpo_core")]
    return [record.getMessage() for record in found if record.levelno == logging.WARNING]


def account(process: str, thread: str, at_s: float, *parts: tuple[str, str, float]) -> Account:
    """A window from ``at_s`` on; ``parts``: name on the lane, span, seconds."""
    lane, start_s, seconds = [], 0.0, defaultdict(float)
    for name, span, spent in parts:
        lane.append(Interval(name, start_s, spent))
        seconds[span] += spent
        start_s += spent
    return Account(process, thread, START_S + at_s, start_s, seconds, tuple(lane))


TRAINER = account(
    "trainer-0", "train", 4.0, ("wait.batch", "wait.batch", 0.5), ("train", "train.backward", 1.0),
    ("publish", "publish", 0.25),
)  # fmt: skip
ROLLOUT = account("trainer-0", "rollout", 3.0, ("load", "load", 0.25), ("sample", "sample.decode", 1.0))
WORKER = account("worker-0", "rollout", 3.25, ("sample", "sample.prefill", 0.75))
REST = account("trainer-0", "train", 6.0, ("checkpoint", "checkpoint", 0.5))


def test_a_step_is_one_trace_of_all_its_processes_and_threads(server: OtlpServer, tmp_path: Path) -> None:
    telemetry, _ = telemetry_to(server.url, tmp_path)
    emit_accounts([ROLLOUT, WORKER], 7, telemetry)
    emit_accounts([TRAINER], 7, telemetry)
    emit_accounts([REST], 7, telemetry)  # after the last step
    telemetry.close()

    assert server.faults == []
    spans = {span.span_id: span for span in server.spans}
    assert len(spans) == len(server.spans) == 4 + 3 + 2 + 1 + 1
    assert len({span.trace_id for span in server.spans}) == 1
    (loop,) = [span for span in server.spans if not span.parent_span_id]
    assert all(span.parent_span_id in spans for span in server.spans if span is not loop)
    assert loop.name == "rl.loop"
    assert shape(loop) == (4.0, 1.75)
    assert values_of(loop.attributes) == {
        "rl.loop.iteration": 7,
        "grpo.process": "trainer-0",
        "grpo.thread": "train",
        "grpo.seconds.wait.batch": 0.5,
        "grpo.seconds.train.backward": 1.0,
        "grpo.seconds.publish": 0.25,
    }
    below: dict[bytes, list[tuple[str, tuple[float, float]]]] = defaultdict(list)
    for span in server.spans:
        below[span.parent_span_id].append((span.name, shape(span)))
    assert below[loop.span_id] == [
        ("grpo.rollout", (3.0, 1.25)),
        ("grpo.rollout", (3.25, 0.75)),
        ("grpo.wait.batch", (4.0, 0.5)),
        ("rl.train", (4.5, 1.0)),
        ("rl.sync", (5.5, 0.25)),
        ("grpo.train", (6.0, 0.5)),
    ]
    rollout, worker = [span for span in server.spans if span.name == "grpo.rollout"]
    assert below[rollout.span_id] == [("rl.sync", (3.0, 0.25)), ("rl.sample", (3.25, 1.0))]
    assert below[worker.span_id] == [("rl.sample", (3.25, 0.75))]
    assert values_of(worker.attributes)["grpo.process"] == "worker-0"


def shape(span: Span) -> tuple[float, float]:
    """Start, and seconds."""
    return (
        round(span.start_time_unix_nano / 1e9 - START_S, 5),
        round((span.end_time_unix_nano - span.start_time_unix_nano) / 1e9, 5),
    )


def test_metrics_have_the_proposed_names(server: OtlpServer, tmp_path: Path) -> None:
    telemetry, _ = telemetry_to(server.url, tmp_path)
    for step in (1, 2):
        telemetry.emit("rollout", num_completions=10, num_trajectories=4, duration_s=0.3)
        telemetry.emit("reward", function="exact", reward_s=0.02)
        telemetry.emit("adapter_publish", publish_ms=200.0)
        telemetry.emit("train_step", step=step, loss=0.25 * step, kl=None, step_s=1.5, reward_mean=0.5)
        emit_accounts([TRAINER, REST], step, telemetry)
        telemetry.emit("token_ledger", num_trained_tokens=300)
        telemetry.emit("figures", step=step, mfu=0.4, steps_per_hour=None if step == 1 else 900.0)
    telemetry.close()

    assert server.faults == []
    assert [point.as_double for point in server.points("rl.train.loss")] == [0.25, 0.5]
    assert values_of(server.points("rl.train.loss")[0].attributes) == {"rl.loss.type": "policy"}
    assert [point.as_double for point in server.points("grpo.steps_per_hour")] == [900.0]
    assert [point.as_double for point in server.points("rl.train.mfu")] == [0.4, 0.4]
    assert server.points("rl.environment.episode.length.mean")[0].as_double == 2.5
    totals = {
        name: server.points(name)[-1].as_int
        for name in ("rl.train.steps", "rl.train.tokens", "rl.sample.samples", "rl.sample.episodes")
    }
    assert totals == {"rl.train.steps": 2, "rl.train.tokens": 600, "rl.sample.samples": 20, "rl.sample.episodes": 8}
    loop = server.points("rl.loop.duration")[-1]
    assert (loop.count, loop.sum) == (2, 3.5)  # what is left after a step is none
    reward = server.points("rl.reward.duration")[-1]
    assert values_of(reward.attributes) == {"grpo.reward.function": "exact"}
    assert reward.sum == pytest.approx(0.04)
    assert values_of(server.points("rl.sync.duration")[-1].attributes) == {"rl.sync.destination": "store"}


def test_the_environment_switches_it_on(server: OtlpServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"{server.url}/")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-key=a%20b, other=2")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "team=red,service.name=first")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "grpo")
    home = Home(data=tmp_path / "data", traces=tmp_path / "traces")
    with open_telemetry(CONFIG, home) as telemetry:
        telemetry.emit("train_step", step=1, loss=0.5, step_s=1.0)
        assert server.got_metrics.wait(30)  # neither flushed nor closed

    assert server.paths == ["/v1/metrics"]
    assert (server.headers[0]["x-key"], server.headers[0]["other"]) == ("a b", "2")
    (of,) = server.metrics[0].resource_metrics
    values = values_of(of.resource.attributes)
    assert (values["service.name"], values["team"], values["rl.run.id"]) == ("grpo", "red", "abc")
    assert {"rl.system", "rl.algorithm", "rl.model.name", "rl.environment.name"} <= set(values)


@pytest.mark.parametrize(
    "answer",
    [429, 500, 503, 403, 400, 302, ("text/html", b"<html>"), (PROTOBUF, b"\xff\xff\xff"), (PROTOBUF, b"half"),
     (PROTOBUF, b"\0" * (2 << 20)), ("application/json", b"[" * 100_000)],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/v1/traces", "/v1/metrics"])
def test_an_outage_is_one_warning_and_every_event_arrives(
    path: str, answer: Any, server: OtlpServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.answers[path] = answer
    telemetry, delivery = telemetry_to(server.url, tmp_path)
    for step in (1, 2, 3):
        telemetry.emit("train_step", step=step, loss=0.5, step_s=1.0)
        emit_accounts([TRAINER], step, telemetry)
        telemetry.flush()
    assert delivery.num_waiting > 0
    num_requests = server.paths.count(path)
    server.answers.clear()
    telemetry.close()

    assert num_requests == 1  # the service has a pause
    assert [span.name for span in server.spans].count("rl.loop") == 3
    assert server.points("rl.train.steps")[-1].as_int == 3  # and none counted twice
    assert server.faults == []
    assert delivery.num_waiting == 0
    (warning,) = warnings_in(caplog)
    assert warning.startswith(f"otel: {server.url}, {path.removeprefix('/v1/')}: ")
    assert "\n" not in warning


def test_retry_after_is_kept(server: OtlpServer, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    server.answers["/v1/metrics"], server.retry_after = 503, "1000"
    telemetry, _ = telemetry_to(server.url, tmp_path)
    telemetry.emit("train_step", step=1, step_s=1.0)
    telemetry.flush()
    server.answers.clear()
    telemetry.close()

    assert (server.paths, server.metrics) == (["/v1/metrics"], [])
    assert warnings_in(caplog)[-1] == "otel: 1 events are still to be sent; send them with: grpo send --run r"


def test_a_service_for_traces_alone_gets_traces(
    server: OtlpServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.answers["/v1/metrics"] = 404
    telemetry, delivery = telemetry_to(server.url, tmp_path)
    for step in (1, 2):
        telemetry.emit("train_step", step=step, step_s=1.0)
        emit_accounts([TRAINER], step, telemetry)
        telemetry.flush()
    telemetry.close()

    assert server.paths.count("/v1/metrics") == 1
    assert [span.name for span in server.spans].count("rl.loop") == 2
    assert delivery.num_waiting == 0
    assert warnings_in(caplog) == [f"otel: {server.url} takes no metrics, so only spans are sent"]


def test_spans_that_are_refused_are_said(server: OtlpServer, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    server.num_rejected = 3
    telemetry, _ = telemetry_to(server.url, tmp_path)
    emit_accounts([TRAINER], 1, telemetry)
    telemetry.close()
    assert warnings_in(caplog) == ["otel: 3 spans were refused: too old"]


def test_nobody_listening_is_one_warning_without_the_password(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        telemetry, delivery = telemetry_to(f"http://me:hidden@127.0.0.1:{port}", tmp_path)
        telemetry.emit("train_step", step=1, step_s=1.0)
        telemetry.close()

    assert delivery.num_waiting == 1
    first, last = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert first.startswith(f"otel: http://...@127.0.0.1:{port}, metrics: ")
    assert last.startswith("otel: 1 events are still to be sent")
    assert "hidden" not in caplog.text


@pytest.mark.parametrize(
    "value",
    [None, True, [1], {"a": 1}, 10**400, -1, 1e308, 1e17, "x", "", "[[1]]", '[["a", 1e999, 1]]', "{}", "\ud800"],
    ids=lambda value: ascii(value)[:20],
)
def test_events_of_another_kind_end_no_thread(server: OtlpServer, tmp_path: Path, value: Any) -> None:
    telemetry, delivery = telemetry_to(server.url, tmp_path)
    fields = (
        "step",
        "time",
        "id",
        "started_s",
        "wall_s",
        "lane",
        "process",
        "loss",
        "step_s",
        "num_completions",
        "reward_s",
        "train_backward_s",
        "function",
    )
    with (tmp_path / "r.jsonl").open("a") as file:
        for kind in ("ledger", "train_step", "rollout", "reward", "figures", "own"):
            own = {
                "kind": kind,
                "id": "a-1",
                "time": START_S,
                "step": 1,
                "started_s": START_S,
                "wall_s": 1.0,
                "lane": "[]",
            }
            for field in fields:
                file.write(json.dumps({**own, field: value}) + "\n")
    emit_accounts([TRAINER], 1, telemetry)
    telemetry.close()

    assert delivery.num_waiting == 0
    assert [span.name for span in server.spans].count("rl.sync") == 1


def test_a_count_ends_at_what_otlp_holds() -> None:
    many = [{"kind": "token_ledger", "time": START_S, "num_trained_tokens": 9.9e14}] * 9_400

    assert any(Totals().after(many).metrics())


def test_it_is_off_by_itself_and_when_told_so() -> None:
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}
    off = build_config({"telemetry": {"otel": "off"}})
    assert open_otel(CONFIG, {}) is None
    assert open_otel(off, endpoint) is None
    assert open_otel(CONFIG, {**endpoint, "OTEL_SDK_DISABLED": "true"}) is None
    assert open_otel(CONFIG, endpoint) is not None
    assert open_otel(build_config({"telemetry": {"otel": "on"}}), {}) is not None


def test_an_endpoint_that_is_no_url_is_one_line() -> None:
    with pytest.raises(CredentialsError, match="OTEL_EXPORTER_OTLP_ENDPOINT 'localhost:4318' is not a URL"):
        open_otel(CONFIG, {"OTEL_EXPORTER_OTLP_ENDPOINT": "localhost:4318"})


@pytest.mark.parametrize("value", ["secret\u20ac", "secret%0D%0A", "%20secret"])
def test_a_header_that_no_request_can_carry_is_one_clear_line(value: str) -> None:
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318",
        "OTEL_EXPORTER_OTLP_HEADERS": f"x-other=a b,x-key={value}",
    }
    with pytest.raises(CredentialsError, match=r"OTEL_EXPORTER_OTLP_HEADERS, x-key: character . of . is") as caught:
        open_otel(CONFIG, environment)
    assert "secret" not in str(caught.value)


OFF = """
import sys
from grpo_core import Home, build_config, open_telemetry
from pathlib import Path

folder = Path(sys.argv[1])
config = build_config({"telemetry": {"wandb": "off"}})
with open_telemetry(config, Home(folder / "data", folder / "traces")) as telemetry:
    telemetry.emit("train_step", step=1)
print([name for name in sys.modules if name.startswith("opentelemetry")])
"""


def test_nothing_of_it_is_imported_while_it_is_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "WANDB_API_KEY", "WANDB_MODE", "AXIOM_TOKEN", "AXIOM_DATASET"):
        monkeypatch.delenv(name, raising=False)
    done = subprocess.run([sys.executable, "-c", OFF, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_package_that_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = OtelConnection(CONFIG, "http://127.0.0.1:1", {})
    monkeypatch.delitem(sys.modules, "grpo_core.telemetry.otel.attributes")
    monkeypatch.setitem(sys.modules, "opentelemetry.proto.common.v1.common_pb2", None)
    with pytest.raises(DeliveryError, match=r"is not installed; run: pip install 'pytest-grpo\[otel\]'"):
        connection.open()


@pytest.mark.slow
def test_a_run_is_traced_while_it_trains(server: OtlpServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from grpo_core import build_stack, train

    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.url)
    home = Home(data=tmp_path / "data", traces=tmp_path / "traces")
    config = build_config(
        {
            "run": "traced",
            "telemetry": {"wandb": "off"},
            "schedule": {"num_steps": 2},
            "environment": {"name": "arithmetic"},
        }
    )
    with build_stack(config, home) as stack, open_telemetry(stack.config_in_use, home) as telemetry:
        train(stack, telemetry)

    assert server.faults == []
    traces: dict[bytes, list[Span]] = defaultdict(list)
    for span in server.spans:
        traces[span.trace_id].append(span)
    assert len(traces) == 2
    for spans in traces.values():
        ids = {span.span_id for span in spans}
        assert [span.name for span in spans if not span.parent_span_id] == ["rl.loop"]
        assert all(span.parent_span_id in ids for span in spans if span.parent_span_id)
        assert {"rl.sample", "rl.train", "rl.sync", "grpo.rollout"} <= {span.name for span in spans}
    assert server.points("rl.train.steps")[-1].as_int == 2
    assert {"rl.train.mfu", "rl.environment.reward.mean", "rl.sample.duration"} <= server.metric_names
