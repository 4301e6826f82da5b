"""Axiom: events go to a dataset through the ``axiom-py`` client."""

from __future__ import annotations

import gzip
import logging
import os
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from grpo_core.config import TelemetryConfig
from grpo_core.errors import CredentialsError, first_line
from grpo_core.telemetry.addresses import check_header, check_url
from grpo_core.telemetry.delivery.delivery import DeliveryError, retry_after_s
from grpo_core.telemetry.events import Record, line_of

if TYPE_CHECKING:
    from requests import Response

logger = logging.getLogger(__name__)

_CONNECT_TIMEOUT_S = 3.0
_READ_TIMEOUT_S = 5.0
_GZIP_LEVEL = 2  # of 9, the client's own: a third more bytes in a third of the time, which training would have
_MAX_REASON = 200
_TOO_LARGE = 413  # the only status that is about the events of one request, and not about the service or the token


def open_axiom(config: TelemetryConfig, environment: Mapping[str, str] = os.environ) -> AxiomConnection | None:
    """The connection that ``AXIOM_TOKEN``, ``AXIOM_DATASET``, ``AXIOM_URL`` and ``AXIOM_ORG_ID`` describe, or None.

    Raises:
        CredentialsError: one of token and dataset is set without the other, or the URL, the token or the organization
            is invalid.
    """
    token, dataset = environment.get("AXIOM_TOKEN"), environment.get("AXIOM_DATASET")
    if config.axiom == "off" or not (token or dataset):
        return None
    if not token or not dataset:
        present, absent = ("AXIOM_TOKEN", "AXIOM_DATASET") if token else ("AXIOM_DATASET", "AXIOM_TOKEN")
        raise CredentialsError(
            f"{present} is set without {absent}: set both to send events to Axiom, or telemetry.axiom to 'off'"
        )
    return AxiomConnection(
        check_header("AXIOM_TOKEN", token), dataset, axiom_url(environment), axiom_org_id(environment)
    )


def axiom_org_id(environment: Mapping[str, str]) -> str | None:
    """``AXIOM_ORG_ID``; None where it is not set.

    Raises:
        CredentialsError: no header can carry it.
    """
    org_id = environment.get("AXIOM_ORG_ID") or None
    return None if org_id is None else check_header("AXIOM_ORG_ID", org_id)


def axiom_url(environment: Mapping[str, str]) -> str | None:
    """``AXIOM_URL``; None where it is not set.

    Raises:
        CredentialsError: it is no URL. The message leaves out its name and password.
    """
    url = environment.get("AXIOM_URL") or None
    return None if url is None else check_url("AXIOM_URL", url)


class AxiomConnection:
    """One dataset. An event that arrives twice, since the answer to the first time was lost, has one ``id``."""

    name = "axiom"

    def __init__(self, token: str, dataset: str, url: str | None = None, org_id: str | None = None) -> None:
        self._token = token
        self._dataset = dataset
        self._url = url
        self._org_id = org_id
        self._answer: Response | None = None  # the last one
        self._has_warned = False  # of events that were refused

    def open(self) -> None:
        """Sends nothing yet, so it cannot fail."""
        from axiom_py import Client

        self._client = Client(self._token, self._org_id, self._url)
        self._bound_requests()

    def send(self, records: Sequence[Record]) -> int:
        """One request. Raises ``DeliveryError`` when Axiom cannot be reached, or gives no answer that it could give."""
        from axiom_py.client import AxiomError, ContentEncoding, ContentType
        from dacite import DaciteError
        from requests import RequestException

        lines = b"".join(map(line_of, records)).removesuffix(b"\n")
        payload = gzip.compress(lines, _GZIP_LEVEL)
        self._answer = None
        try:
            self._client.ingest(self._dataset, payload, ContentType.NDJSON, ContentEncoding.GZIP)
        except AxiomError as error:
            raise DeliveryError(
                f"dataset {self._dataset!r}: {error}",
                retry_after_s=self._retry_after_s(),
                is_refusal=error.status == _TOO_LARGE,
            ) from error
        except RequestException as error:
            raise DeliveryError(f"dataset {self._dataset!r}: {error}") from error
        except (DaciteError, AttributeError, TypeError, ValueError, LookupError) as error:
            if self._answer is None:
                raise  # nothing was sent
            logger.debug("axiom: the client cannot read the answer: %s", first_line(error))
        return self._num_refused()

    def close(self) -> None:
        self._client.session.close()

    def _retry_after_s(self) -> float:
        if self._answer is None:
            return 0.0
        return retry_after_s(self._answer.headers.get("Retry-After"), time.time())

    def _num_refused(self) -> int:
        """What the last answer says. It is read here, since the client cannot read a refused event without a time.

        Raises:
            DeliveryError: no answer of Axiom's.
        """
        assert self._answer is not None
        try:
            content = self._answer.json()
        except ValueError:
            content = None
        match content:
            case {"ingested": int(), "failed": int(num_refused)}:
                if num_refused and not self._has_warned:
                    self._has_warned = True  # the sum is said when the sink is closed
                    reason = _reason(content.get("failures"))
                    logger.warning("axiom: dataset %r refused %d events: %s", self._dataset, num_refused, reason)
                return num_refused
        raise DeliveryError(f"dataset {self._dataset!r}: the answer is not one of Axiom's")

    def _bound_requests(self) -> None:
        """Give every request a timeout and no retry: the delivery tries again, in its own time.

        The client by itself has no timeout, and each of its retries is a warning of urllib3.
        """
        from requests import PreparedRequest
        from requests.adapters import HTTPAdapter

        connection = self

        class BoundedAdapter(HTTPAdapter):
            def send(self, request: PreparedRequest, *args: Any, **options: Any) -> Response:
                options["timeout"] = (_CONNECT_TIMEOUT_S, _READ_TIMEOUT_S)
                connection._answer = super().send(request, *args, **options)
                return connection._answer

        for scheme in ("https://", "http://"):
            self._client.session.mount(scheme, BoundedAdapter(max_retries=0))


def _reason(failures: object) -> str:
    """Why the first of ``failures`` was refused."""
    match failures:
        case [{"error": str(reason)}, *_]:
            return " ".join(reason.split())[:_MAX_REASON] or "no reason given"
    return "no reason given"
