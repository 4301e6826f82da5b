"""Axiom: events go to a dataset through the ``axiom-py`` client."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from grpo_core.config import TelemetryConfig
from grpo_core.errors import CredentialsError
from grpo_core.telemetry.background import DeliveryError
from grpo_core.telemetry.events import Event

if TYPE_CHECKING:
    from axiom_py import Client

_CONNECT_TIMEOUT_S = 3.0
_READ_TIMEOUT_S = 5.0
_MAX_RETRIES = 1


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
    url = environment.get("AXIOM_URL") or None
    if url is not None and not url.startswith(("https://", "http://")):
        raise CredentialsError(
            f"AXIOM_URL {url!r} is not a URL: it must start with https:// or http://; correct or unset it"
        )
    return AxiomConnection(token, dataset, url, environment.get("AXIOM_ORG_ID") or None)


class AxiomConnection:
    """One dataset. A failed batch is retried once, so an event can arrive twice, but never in part."""

    name = "axiom"

    def __init__(self, token: str, dataset: str, url: str | None = None, org_id: str | None = None) -> None:
        self._token = token
        self._dataset = dataset
        self._url = url
        self._org_id = org_id

    def open(self) -> None:
        """Sends nothing yet, so it cannot fail."""
        from axiom_py import Client

        self._client = Client(self._token, self._org_id, self._url)
        _bound_requests(self._client)

    def send(self, events: Sequence[Event]) -> None:
        """One request. Raises ``DeliveryError`` when Axiom cannot be reached or does not take every event."""
        from axiom_py.client import AxiomError
        from dacite import DaciteError
        from requests import RequestException

        try:
            status = self._client.ingest_events(self._dataset, [event.record() for event in events])
        except (AxiomError, RequestException, DaciteError) as error:
            raise DeliveryError(f"dataset {self._dataset!r}: {error}") from error
        if status.failed:
            reason = status.failures[0].error if status.failures else "no reason given"
            raise DeliveryError(f"dataset {self._dataset!r} refused {status.failed} events: {reason}", status.failed)

    def close(self) -> None:
        self._client.session.close()


def _bound_requests(client: Client) -> None:
    """Give every request a timeout and one quick retry. The client by itself has no timeout and retries for 12 s."""
    from requests import PreparedRequest, Response
    from requests.adapters import HTTPAdapter
    from urllib3.util.retry import Retry

    class BoundedAdapter(HTTPAdapter):
        def send(self, request: PreparedRequest, *args: Any, **options: Any) -> Response:
            options["timeout"] = (_CONNECT_TIMEOUT_S, _READ_TIMEOUT_S)
            return super().send(request, *args, **options)

    retry = Retry(
        total=_MAX_RETRIES,
        backoff_factor=0.1,
        status_forcelist=[429, 500, 502, 503, 504],
        allowed_methods=None,
        raise_on_status=False,
        respect_retry_after_header=False,
    )
    for scheme in ("https://", "http://"):
        client.session.mount(scheme, BoundedAdapter(max_retries=retry))
