"""Axiom's API for dashboards, monitors and annotations. Sources: axiom.co/docs/restapi, version 2 of its OpenAPI."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import requests

from grpo_core.axiom.documents import DASHBOARD_UID, NAME_PREFIX, Document, Documents
from grpo_core.errors import CredentialsError, GrpoError

DEFAULT_URL = "https://api.axiom.co"
_TIMEOUT_S = (5.0, 30.0)
_MARK_KEYS = ("type", "title", "time")
"""Two annotations with the same values of these are the same one."""


class AxiomError(GrpoError):
    """Axiom did not do what it was asked for."""


@dataclass(frozen=True, slots=True)
class Change:
    """What became of one thing: ``created``, ``updated`` or ``unchanged``."""

    what: str
    outcome: str


class Api:
    """Requests to Axiom. Each method may be called again and again: what is there already is not made twice.

    Raises:
        AxiomError: Axiom cannot be reached, or refuses; what was done before stays.
        CredentialsError: the token may not do this.
    """

    def __init__(self, token: str, url: str | None = None, org_id: str | None = None) -> None:
        self._session = requests.Session()
        self._session.headers["Authorization"] = f"Bearer {token}"
        if org_id is not None:
            self._session.headers["X-Axiom-Org-Id"] = org_id
        self._url = (url or DEFAULT_URL).rstrip("/")

    def push(self, documents: Documents) -> list[Change]:
        """The dashboard is replaced, a monitor changed where it differs, an annotation added where there is none."""
        dataset = documents.annotations[0]["datasets"][0] if documents.annotations else ""
        return [
            self._push_dashboard(documents.dashboard),
            *self._push_monitors(documents.monitors),
            *self._push_annotations(documents.annotations, dataset),
        ]

    def close(self) -> None:
        self._session.close()

    def _push_dashboard(self, dashboard: Document) -> Change:
        body = {"dashboard": dashboard, "uid": DASHBOARD_UID, "overwrite": True, "message": "grpo axiom push"}
        answer = self._call("POST", "dashboards", body)
        return Change(f"dashboard {dashboard['name']}", str(_field(answer, "status")))

    def _push_monitors(self, monitors: Sequence[Document]) -> list[Change]:
        present = {
            each["name"]: each
            for each in _objects(self._call("GET", "monitors"))
            if str(each.get("name")).startswith(NAME_PREFIX)
        }
        return [self._push_monitor(monitor, present.get(monitor["name"])) for monitor in monitors]

    def _push_monitor(self, monitor: Document, present: Mapping[str, Any] | None) -> Change:
        what = f"monitor {monitor['name']}"
        if present is None:
            self._call("POST", "monitors", monitor)
            return Change(what, "created")
        if not monitor["notifierIds"]:  # those that somebody chose stay
            monitor = {**monitor, "notifierIds": present.get("notifierIds") or []}
        if all(present.get(key) == value for key, value in monitor.items()):
            return Change(what, "unchanged")
        self._call("PUT", f"monitors/{_field(present, 'id')}", monitor)
        return Change(what, "updated")

    def _push_annotations(self, marks: Sequence[Document], dataset: str) -> list[Change]:
        if not marks:
            return []
        present = {_key(mark) for mark in _objects(self._call("GET", "annotations", parameters={"datasets": dataset}))}
        changes = []
        for mark in marks:
            is_new = _key(mark) not in present
            if is_new:
                self._call("POST", "annotations", mark)
            changes.append(Change(f"annotation {mark['title']}", "created" if is_new else "unchanged"))
        return changes

    def _call(
        self, method: str, path: str, body: Document | None = None, parameters: Mapping[str, str] | None = None
    ) -> Any:
        url = f"{self._url}/v2/{path}"
        try:
            answer = self._session.request(method, url, json=body, params=parameters, timeout=_TIMEOUT_S)
        except requests.RequestException as error:
            raise AxiomError(f"{url}: no answer ({type(error).__name__}); check the network, or AXIOM_URL") from error
        if answer.status_code in (401, 403):
            raise CredentialsError(
                f"AXIOM_TOKEN may not {method} {path.partition('/')[0]}: give it that permission in Axiom's settings"
            )
        if not answer.ok:
            raise AxiomError(f"{method} {url}: Axiom answers {answer.status_code}: {answer.text[:200]!r}")
        try:
            return answer.json()
        except ValueError:
            raise AxiomError(f"{method} {url}: the answer is not one of Axiom's; check AXIOM_URL") from None


def _key(mark: Mapping[str, Any]) -> tuple[str, ...]:
    """Axiom writes a time in its own way."""
    try:
        time = datetime.fromisoformat(str(mark.get("time"))).astimezone(UTC).isoformat(timespec="milliseconds")
    except ValueError:
        time = ""
    return str(mark.get("type")), str(mark.get("title")), time


def _objects(answer: Any) -> list[dict[str, Any]]:
    if not isinstance(answer, list) or not all(isinstance(each, dict) for each in answer):
        raise AxiomError("Axiom's answer is no list; check AXIOM_URL")
    return answer


def _field(answer: Any, name: str) -> Any:
    if not isinstance(answer, Mapping) or name not in answer:
        raise AxiomError(f"Axiom's answer has no {name}; check AXIOM_URL")
    return answer[name]
