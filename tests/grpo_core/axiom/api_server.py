"""A loopback server that speaks Axiom's dashboards, monitors and annotations, and takes nothing that Axiom refuses."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.loopback import serving

Fields = Mapping[str, tuple[type | tuple[type, ...], bool]]
"""Name -> type, and whether it must be there. Nothing else may be."""

NUMBER = (int, float)
UPSERT: Fields = {"dashboard": (dict, True), "uid": (str, False), "overwrite": (bool, False), "version": (int, False),
                  "message": (str, False)}  # fmt: skip
DASHBOARD: Fields = {
    "name": (str, True), "owner": (str, True), "charts": (list, True), "layout": (list, True),
    "refreshTime": (int, True), "schemaVersion": (int, True), "timeWindowStart": (str, True),
    "timeWindowEnd": (str, True), "description": (str, False),
}  # fmt: skip
CHART: Fields = {"id": (str, True), "type": (str, True), "name": (str, False), "query": (dict, True)}
QUERY: Fields = {"apl": (str, True), "queryOptions": (dict, False)}
OPTIONS: Fields = {"displayNull": (str, False), "timeSeriesView": (str, False)}
CELL: Fields = {"i": (str, True), "x": (int, True), "y": (int, True), "w": (int, True), "h": (int, True)}
MONITOR: Fields = {
    "name": (str, True), "type": (str, True), "description": (str, False), "aplQuery": (str, True),
    "operator": (str, True), "threshold": (NUMBER, True), "intervalMinutes": (int, True), "rangeMinutes": (int, True),
    "alertOnNoData": (bool, False), "resolvable": (bool, False), "notifierIds": (list, False),
}  # fmt: skip
ANNOTATION: Fields = {"datasets": (list, True), "type": (str, True), "time": (str, False), "title": (str, False),
                      "description": (str, False)}  # fmt: skip


class RefusedError(Exception):
    """What Axiom would answer 400 to."""


class ApiServer(ThreadingHTTPServer):
    """Keeps what it is given. ``status`` is an answer to give instead; ``lines`` is the transcript."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status: int | None = None
        self.dashboards: dict[str, dict[str, Any]] = {}
        self.monitors: dict[str, dict[str, Any]] = {}
        self.annotations: list[dict[str, Any]] = []
        self.lines: list[str] = []
        self.numbers = itertools.count()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: ApiServer  # type: ignore[assignment]

    def do_GET(self) -> None:
        self._answer("GET")

    def do_POST(self) -> None:
        self._answer("POST")

    def do_PUT(self) -> None:
        self._answer("PUT")

    def _answer(self, method: str) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        address = urlsplit(self.path)
        try:
            status, content = self._handled(method, address.path, address.query, body)
        except RefusedError as error:
            status, content = 400, {"code": "bad-request", "message": str(error)}
        self.server.lines.append(f"{method} {self.path} {status}")
        encoded = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(encoded)))
        self.end_headers()
        self.wfile.write(encoded)

    def _handled(self, method: str, path: str, query: str, body: bytes) -> tuple[int, Any]:
        if self.server.status is not None:
            return self.server.status, {"message": "out of order"}
        if self.headers["Authorization"] != "Bearer xaat-secret":
            return 403, {"message": "forbidden"}
        given: Any = json.loads(body) if body else None
        if body and self.headers["Content-Type"] != "application/json":
            return 415, {"message": "only JSON"}
        if (method, path) == ("POST", "/v2/dashboards"):
            return self._upsert(given)
        if path == "/v2/monitors":
            return (200, list(self.server.monitors.values())) if method == "GET" else (200, self._monitor(given, None))
        if method == "PUT" and (found := re.fullmatch(r"/v2/monitors/(mon_\d+)", path)):
            return 200, self._monitor(given, found[1])
        if path == "/v2/annotations" and method == "GET":
            (wanted,) = parse_qs(query)["datasets"]
            return 200, [mark for mark in self.server.annotations if wanted in mark["datasets"]]
        if path == "/v2/annotations":
            check(given, ANNOTATION)
            demand(re.fullmatch("[a-z0-9-]+", given["type"]) is not None, "type: only lower-case letters and hyphens")
            demand(len(given["title"]) <= 256 and len(given["description"]) <= 512, "a text is too long")
            time = given["time"].replace("+00:00", "Z")
            mark = {**given, "id": f"ann_{next(self.server.numbers)}", "time": re.sub(r"(\.\d{3})\d*", r"\1", time)}
            self.server.annotations.append(mark)
            return 201, mark
        return 404, {"message": "not found"}

    def _upsert(self, given: Any) -> tuple[int, Any]:
        check(given, UPSERT)
        check_dashboard(given["dashboard"])
        uid = given["uid"]
        demand(re.fullmatch(r"[A-Za-z0-9_-]{1,128}", uid) is not None, "uid")
        is_there = uid in self.server.dashboards
        if is_there and not given.get("overwrite"):
            return 409, {"code": "conflict", "message": "exists"}
        self.server.dashboards[uid] = given["dashboard"]
        status = "updated" if is_there else "created"
        return (200 if is_there else 201), {
            "status": status,
            "dashboard": {"uid": uid, "dashboard": given["dashboard"]},
        }

    def _monitor(self, given: Any, known: str | None) -> dict[str, Any]:
        check(given, MONITOR)
        demand(given["type"] in {"Threshold", "MatchEvent", "AnomalyDetection"}, "type")
        demand(given["operator"] in {"Below", "BelowOrEqual", "Above", "AboveOrEqual", "AboveOrBelow"}, "operator")
        demand(given["intervalMinutes"] >= 1 and given["rangeMinutes"] >= 1, "minutes")
        demand(known is None or known in self.server.monitors, "no such monitor")
        identity = known or f"mon_{next(self.server.numbers)}"
        self.server.monitors[identity] = {**given, "id": identity, "createdAt": "2026-01-01T00:00:00Z"}
        return self.server.monitors[identity]

    def log_message(self, format: str, *args: Any) -> None:
        pass


def check_dashboard(given: Any) -> None:
    check(given, DASHBOARD)
    demand(given["owner"] == "", "owner: an API token may name nobody")
    demand(given["schemaVersion"] == 2, "schemaVersion")
    demand(given["refreshTime"] in {15, 60, 300}, "refreshTime")
    demand(re.fullmatch(r"qr-now-\d+[smhdw]", given["timeWindowStart"]) is not None, "timeWindowStart")
    demand(given["timeWindowEnd"] == "qr-now", "timeWindowEnd")
    demand(1 <= len(given["name"]) <= 100 and len(given["description"]) <= 1000, "a text is too long")
    for chart in given["charts"]:
        check(chart, CHART)
        check(chart["query"], QUERY)
        is_table = chart["type"] == "Table"
        demand(is_table or chart["type"] == "TimeSeries", "type of a chart")
        demand(not is_table or "queryOptions" not in chart["query"], "a table has no options")
        check(chart["query"].get("queryOptions", {}), OPTIONS)
    for cell in given["layout"]:
        check(cell, CELL)
        demand(0 <= cell["x"] <= 11 and 1 <= cell["w"] <= 12 and cell["x"] + cell["w"] <= 12, "outside of the grid")
    ids = [chart["id"] for chart in given["charts"]]
    demand(sorted(ids) == sorted({cell["i"] for cell in given["layout"]}), "charts and layout differ")


def check(given: Any, fields: Fields) -> None:
    demand(isinstance(given, dict), "no object")
    demand(set(given) <= set(fields), f"Unrecognized keys: {sorted(set(given) - set(fields))}")
    for name, (kind, is_needed) in fields.items():
        demand(name in given or not is_needed, f"{name} is missing")
        is_flag = isinstance(given.get(name), bool) and kind is not bool
        demand(name not in given or (isinstance(given[name], kind) and not is_flag), f"{name}: wrong type")


def demand(holds: bool, otherwise: str) -> None:
    if not holds:
        raise RefusedError(otherwise)


def running_api() -> AbstractContextManager[ApiServer]:
    return serving(ApiServer())
