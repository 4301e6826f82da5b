"""OpenTelemetry: the way of a run's spans and metrics to a collector, over OTLP/HTTP.

OpenTelemetry's own exporters try again in their own time, and say why only in the log. A delivery needs the answer.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from grpo_core.telemetry.addresses import check_header, check_url, pairs, without_user
from grpo_core.telemetry.delivery.delivery import DeliveryError, retry_after_s
from grpo_core.telemetry.events import Record

if TYPE_CHECKING:
    import requests
    from google.protobuf.message import Message

    from grpo_core.config import GrpoConfig

logger = logging.getLogger(__name__)

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
HEADERS = "OTEL_EXPORTER_OTLP_HEADERS"
DEFAULT_ENDPOINT = "http://localhost:4318"
_TIMEOUT_S = (3.0, 5.0)  # to connect, and between two parts of an answer
_MAX_ANSWER_BYTES = 1 << 20
_NOT_FOUND, _TOO_LARGE = 404, 413
_PROTOBUF = "application/x-protobuf"


def open_otel(config: GrpoConfig, environment: Mapping[str, str]) -> OtelConnection | None:
    """The connection that ``telemetry.otel`` and ``OTEL_EXPORTER_OTLP_ENDPOINT`` ask for, or None.

    Raises:
        CredentialsError: the endpoint is no URL, or no request can carry a header of ``OTEL_EXPORTER_OTLP_HEADERS``.
    """
    endpoint = environment.get(ENDPOINT)
    is_on = config.telemetry.otel == "on" or (config.telemetry.otel == "auto" and endpoint)
    if not is_on or environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    endpoint = check_url(ENDPOINT, endpoint) if endpoint else DEFAULT_ENDPOINT
    for name, value in pairs(environment.get(HEADERS, "")).items():
        check_header(f"{HEADERS}, {name}", value)
    return OtelConnection(config, endpoint.rstrip("/"), environment)


class OtelConnection:
    """A collector, or a service that speaks OTLP/HTTP. What arrives twice has the same ids and times."""

    name = "otel"

    def __init__(self, config: GrpoConfig, endpoint: str, environment: Mapping[str, str]) -> None:
        self._config = config
        self._endpoint = endpoint
        self._shown = without_user(endpoint)
        self._environment = environment
        self._traced: set[str] = set()  # events whose spans have arrived, and whose metrics have not
        self._takes_metrics = True

    def open(self) -> None:
        """Sends nothing yet.

        Raises:
            DeliveryError: a package is not installed.
        """
        from importlib.metadata import version

        import requests

        from grpo_core.extras import install_command

        try:
            from grpo_core.telemetry.otel.attributes import resource, scope
            from grpo_core.telemetry.otel.metrics import Totals
        except ModuleNotFoundError as error:
            raise DeliveryError(f"the package {error.name} is not installed; run: {install_command('otel')}") from error
        own = version("pytest-grpo")
        self._resource = resource(self._config, own, self._environment)
        self._scope = scope(own)
        self._totals = Totals()
        self._session = requests.Session()
        self._session.headers.update(pairs(self._environment.get(HEADERS, "")))

    def send(self, records: Sequence[Record]) -> int:
        """At most two requests: spans, then metrics. Raises ``DeliveryError`` when one of them was not taken."""
        ids = {str(record.get("id")) for record in records}
        self._send_spans([record for record in records if str(record.get("id")) not in self._traced])
        self._traced |= ids
        if self._takes_metrics:
            self._send_metrics(records)
        self._traced -= ids
        return 0

    def close(self) -> None:
        self._session.close()

    def _send_spans(self, records: Sequence[Record]) -> None:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

        from grpo_core.telemetry.otel.spans import spans_of
        from grpo_core.telemetry.otel.wire import request

        if spans := [span for record in records if record["kind"] == "ledger" for span in spans_of(record)]:
            answer = ExportTraceServiceResponse()
            self._post("traces", request(self._resource, self._scope, spans), answer)
            _warn_of("spans", answer.partial_success.rejected_spans, answer.partial_success.error_message)

    def _send_metrics(self, records: Sequence[Record]) -> None:
        from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse

        from grpo_core.telemetry.otel.metrics import gauges
        from grpo_core.telemetry.otel.wire import request

        totals = self._totals.after(records)
        if metrics := [*totals.metrics(), *gauges(records)]:
            answer = ExportMetricsServiceResponse()
            whole = request(self._resource, self._scope, metrics)
            self._takes_metrics = self._post("metrics", whole, answer, is_needed=False)
            _warn_of("data points", answer.partial_success.rejected_data_points, answer.partial_success.error_message)
        self._totals = totals

    def _post(self, signal: str, whole: bytes, answer: Message, *, is_needed: bool = True) -> bool:
        """Send ``whole``, and read what the service says into ``answer``. False where it does not know the signal, and
        the signal is not needed: some services take traces only."""
        import requests
        from google.protobuf.message import DecodeError

        try:
            with self._session.post(
                f"{self._endpoint}/v1/{signal}",
                data=whole,
                headers={"Content-Type": _PROTOBUF},
                timeout=_TIMEOUT_S,
                allow_redirects=False,
                stream=True,
            ) as response:
                if response.status_code == _NOT_FOUND and not is_needed:
                    logger.warning("otel: %s takes no %s, so only spans are sent", self._shown, signal)
                    return False
                if response.status_code != requests.codes.ok:
                    raise self._refusal(signal, response)
                _read(response, answer)
        except requests.RequestException as error:
            raise DeliveryError(f"{self._shown}, {signal}: {error}") from error
        except (DecodeError, ValueError, RecursionError) as error:
            raise DeliveryError(f"{self._shown}, {signal}: the answer is not OTLP ({error})") from error
        return True

    def _refusal(self, signal: str, response: requests.Response) -> DeliveryError:
        return DeliveryError(
            f"{self._shown}, {signal}: it answers {response.status_code}",
            retry_after_s=retry_after_s(response.headers.get("Retry-After"), time.time()),
            is_refusal=response.status_code == _TOO_LARGE,
        )


def _read(response: requests.Response, answer: Message) -> None:
    """Raises ``ValueError`` or ``DecodeError`` where it is none that a service gives: a proxy's page, say."""
    body = b""
    for part in response.iter_content(_MAX_ANSWER_BYTES):
        body += part
        if len(body) > _MAX_ANSWER_BYTES:
            raise ValueError(f"more than {_MAX_ANSWER_BYTES} bytes")
    kind = response.headers.get("Content-Type", _PROTOBUF).partition(";")[0].strip()
    if kind == _PROTOBUF:
        answer.ParseFromString(body)
    elif kind != "application/json" or not isinstance(json.loads(body or b"{}"), dict):
        raise ValueError(f"a body of the type {kind[:40]!r}")


def _warn_of(what: str, num_rejected: int, reason: str) -> None:
    if num_rejected or reason:
        logger.warning(
            "otel: %d %s were refused: %s", num_rejected, what, " ".join(reason.split())[:200] or "no reason"
        )
