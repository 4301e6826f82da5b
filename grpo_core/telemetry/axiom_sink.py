"""Axiom: events go to a dataset through the ``axiom-py`` client."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from grpo_core.config import TelemetryConfig
from grpo_core.errors import CredentialsError
from grpo_core.telemetry.addresses import check_url
from grpo_core.telemetry.delivery import DeliveryError, retry_after_s
from grpo_core.telemetry.events import Record

logger = logging.getLogger(__name__)

_CONNECT_TIMEOUT_S = 3.0
_READ_TIMEOUT_S = 5.0
_TOO_LARGE = 413  # the only status that is about the events of one request, and not about the service or the token


def open_axiom(config: TelemetryConfig, environment: Mapping[str, str] = os.environ) -> AxiomConnection | None:
    """The connection that ``AXIOM_TOKEN``, ``AXIOM_DATASET``, ``AXIOM_URL`` and ``AXIOM_ORG_ID`` describe, or None.

    Raises:
        CredentialsError: one of token and dataset is set without the other, or the URL is invalid.
    """
    token, dataset = environment.get("AXIOM_TOKEN"), environment.get("AXIOM_DATASET")
    if config.axiom == "off" or not (token or dataset):
        return None
    if not token or not dataset:
        present, absent = ("AXIOM_TOKEN", "AXIOM_DATASET") if token else ("AXIOM_DATASET", "AXIOM_TOKEN")
        raise CredentialsError(
            f"{present} is set without {absent}: set both to send events to Axiom, or telemetry.axiom to 'off'"
        )
    return AxiomConnection(token, dataset, axiom_url(environment), environment.get("AXIOM_ORG_ID") or None)


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
        self._retry_after: str | None = None  # the header of the last answer

    def open(self) -> None:
        """Sends nothing yet, so it cannot fail."""
        from axiom_py import Client

        self._client = Client(self._token, self._org_id, self._url)
        self._bound_requests()

    def send(self, records: Sequence[Record]) -> int:
        """One request. Raises ``DeliveryError`` when Axiom cannot be reached, or gives no answer that it could give."""
        from axiom_py.client import AxiomError
        from dacite import DaciteError
        from requests import RequestException

        self._retry_after = None
        try:
            status = self._client.ingest_events(self._dataset, [dict(record) for record in records])
        except AxiomError as error:
            raise DeliveryError(
                f"dataset {self._dataset!r}: {error}",
                retry_after_s=retry_after_s(self._retry_after, time.time()),
                is_refusal=error.status == _TOO_LARGE,
            ) from error
        except RequestException as error:
            raise DeliveryError(f"dataset {self._dataset!r}: {error}") from error
        except (DaciteError, AttributeError, TypeError, ValueError, LookupError) as error:  # the client trusts answers
            raise DeliveryError(f"dataset {self._dataset!r}: its answer is none of Axiom's ({error!r})") from error
        if status.failed:
            reason = status.failures[0].error if status.failures else "no reason given"
            logger.warning("axiom: dataset %r refused %d events: %s", self._dataset, status.failed, reason)
        return status.failed

    def close(self) -> None:
        self._client.session.close()

    def _bound_requests(self) -> None:
        """Give every request a timeout and no retry: the delivery tries again, in its own time.

        The client by itself has no timeout, and each of its retries is a warning of urllib3.
        """
        from requests import PreparedRequest, Response
        from requests.adapters import HTTPAdapter

        connection = self

        class BoundedAdapter(HTTPAdapter):
            def send(self, request: PreparedRequest, *args: Any, **options: Any) -> Response:
                options["timeout"] = (_CONNECT_TIMEOUT_S, _READ_TIMEOUT_S)
                response = super().send(request, *args, **options)
                connection._retry_after = response.headers.get("Retry-After")
                return response

        for scheme in ("https://", "http://"):
            self._client.session.mount(scheme, BoundedAdapter(max_retries=0))
