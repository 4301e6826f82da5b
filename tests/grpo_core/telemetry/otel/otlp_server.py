"""A loopback server that speaks OTLP/HTTP as strictly as the protocol is written."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.loopback import answer, serving

PROTOBUF = "application/x-protobuf"


class OtlpServer(ThreadingHTTPServer):
    """Checks what it gets, and keeps it. ``answers`` has what to give for a path instead: a status, or a body with its
    type and status 200."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _OtlpHandler)
        self.answers: dict[str, int | tuple[str, bytes]] = {}
        self.retry_after = ""
        self.num_rejected = 0
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.traces: list[ExportTraceServiceRequest] = []
        self.metrics: list[ExportMetricsServiceRequest] = []
        self.faults: list[str] = []
        self.got_metrics = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def spans(self) -> list[Span]:
        return [
            span
            for each in self.traces
            for of in each.resource_spans
            for scoped in of.scope_spans
            for span in scoped.spans
        ]

    def points(self, name: str) -> list[Any]:
        """The points of a metric, in the order in which they came."""
        return [point for metric in self._metrics() if metric.name == name for point in points_of(metric)]

    @property
    def metric_names(self) -> set[str]:
        return {metric.name for metric in self._metrics()}

    def _metrics(self) -> Iterator[Metric]:
        for each in self.metrics:
            for of in each.resource_metrics:
                for scoped in of.scope_metrics:
                    yield from scoped.metrics


def points_of(metric: Metric) -> list[Any]:
    return list(getattr(metric, str(metric.WhichOneof("data"))).data_points)


def values_of(attributes: Any) -> dict[str, Any]:
    """``attributes`` as a mapping; a key that comes twice is a fault."""
    found: dict[str, Any] = {}
    for each in attributes:
        assert isinstance(each, KeyValue)
        assert each.key not in found, each.key
        found[each.key] = getattr(each.value, str(each.value.WhichOneof("value")))
    return found


class _OtlpHandler(BaseHTTPRequestHandler):
    server: OtlpServer  # type: ignore[assignment]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.paths.append(self.path)
        self.server.headers.append({name.lower(): value for name, value in self.headers.items()})
        answer = self.server.answers.get(self.path)
        if isinstance(answer, int):
            return self._reply(answer, "text/plain", b"out of order")
        if answer is not None:
            return self._reply(200, *answer)
        if self.headers["Content-Type"] != PROTOBUF:
            return self._reply(415, "text/plain", b"")
        try:
            self._take(body)
        except (AssertionError, ValueError) as fault:
            self.server.faults.append(f"{self.path}: {fault}")
            self._reply(400, "text/plain", str(fault).encode())

    def _take(self, body: bytes) -> None:
        if self.path == "/v1/traces":
            traces = ExportTraceServiceRequest.FromString(body)
            _check_traces(traces)
            self.server.traces.append(traces)
            answer = ExportTraceServiceResponse()
            if self.server.num_rejected:
                answer.partial_success.rejected_spans = self.server.num_rejected
                answer.partial_success.error_message = "too\nold"
            return self._reply(200, PROTOBUF, answer.SerializeToString())
        if self.path == "/v1/metrics":
            metrics = ExportMetricsServiceRequest.FromString(body)
            _check_metrics(metrics)
            self.server.metrics.append(metrics)
            self._reply(200, PROTOBUF, ExportMetricsServiceResponse().SerializeToString())
            return self.server.got_metrics.set()
        self._reply(404, "text/plain", b"")

    def _reply(self, status: int, kind: str, body: bytes) -> None:
        answer(self, status, kind, body, self.server.retry_after)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _check_traces(request: ExportTraceServiceRequest) -> None:
    for of in request.resource_spans:
        assert values_of(of.resource.attributes)["service.name"]
        for span in (span for scoped in of.scope_spans for span in scoped.spans):
            assert (len(span.trace_id), len(span.span_id)) == (16, 8), "ids have 16 and 8 bytes"
            assert len(span.parent_span_id) in (0, 8), "a parent has 8 bytes, or there is none"
            assert any(span.trace_id), "no id is all zeros"
            assert any(span.span_id), "no id is all zeros"
            assert span.span_id != span.parent_span_id
            assert 0 < span.start_time_unix_nano <= span.end_time_unix_nano
            assert span.name
            assert span.kind
            values_of(span.attributes)


def _check_metrics(request: ExportMetricsServiceRequest) -> None:
    for of in request.resource_metrics:
        assert values_of(of.resource.attributes)["service.name"]
        names = [metric.name for scoped in of.scope_metrics for metric in scoped.metrics]
        assert len(names) == len(set(names)), "a metric comes once in a request"
        for metric in (metric for scoped in of.scope_metrics for metric in scoped.metrics):
            kind = metric.WhichOneof("data")
            assert kind in ("gauge", "sum", "histogram")
            assert metric.unit, metric.name
            series = set()
            for point in points_of(metric):
                assert point.time_unix_nano > 0
                key = (point.time_unix_nano, tuple(sorted(values_of(point.attributes).items())))
                assert key not in series, f"{metric.name}: a series has one point at a time"
                series.add(key)
                if kind != "gauge":
                    assert 0 < point.start_time_unix_nano <= point.time_unix_nano
                if kind == "histogram":
                    assert len(point.bucket_counts) == len(point.explicit_bounds) + 1
                    assert sum(point.bucket_counts) == point.count


def running_server() -> AbstractContextManager[OtlpServer]:
    return serving(OtlpServer())
