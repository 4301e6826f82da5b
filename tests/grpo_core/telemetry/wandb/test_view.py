"""The saved view, against a loopback server that answers W&B's queries."""

from __future__ import annotations

import json
from collections.abc import Iterator
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from grpo_core.cli import main
from grpo_core.telemetry.wandb.names import AXES, NAMES
from grpo_core.telemetry.wandb.view import SECTIONS
from tests.loopback import serving

KEY = "0123456789abcdef" * 2 + "01234567"


class ViewServer(ThreadingHTTPServer):
    """Keeps the views that it is given, by their names."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _ViewHandler)
        self.views: dict[str, dict[str, Any]] = {}
        self.saved_ids: list[str | None] = []
        self.answer: Any = None  # to every save, instead

    def save(self, variables: dict[str, Any]) -> Any:
        if self.answer is not None:
            return self.answer
        self.saved_ids.append(variables.get("id"))
        name = variables["name"]
        self.views[name] = {"id": f"view-{name}", "displayName": variables["displayName"], "spec": variables["spec"]}
        self.views[name]["place"] = (variables["entityName"], variables["projectName"])
        return {"upsertView": {"view": {"id": f"view-{name}", "name": name}, "inserted": True}}


class _ViewHandler(BaseHTTPRequestHandler):
    server: ViewServer  # type: ignore[assignment]

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        query, variables = asked["query"], asked.get("variables") or {}
        if "upsertView" in query:
            data = self.server.save(variables)
        elif "allViews" in query:
            found = self.server.views.get(variables["viewName"])
            data = {"project": {"allViews": {"edges": [] if found is None else [{"node": found}]}}}
        else:
            data = {"viewer": {"id": "1", "entity": "team", "username": "me", "flags": "{}", "teams": {"edges": []}}}
        body = json.dumps({"data": data}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ViewServer]:
    import wandb

    monkeypatch.setenv("GRPO_HOME", str(tmp_path))
    with serving(ViewServer()) as server:
        for name, value in {
            "WANDB_BASE_URL": f"http://127.0.0.1:{server.server_port}",
            "WANDB_API_KEY": KEY,
            "WANDB_PROJECT": "games",
            "WANDB_ERROR_REPORTING": "false",
            "NO_PROXY": "127.0.0.1",
        }.items():
            monkeypatch.setenv(name, value)
        for name in ("WANDB_MODE", "WANDB_ENTITY"):
            monkeypatch.delenv(name, raising=False)
        wandb.teardown()  # another test's settings
        yield server
        wandb.teardown()


@pytest.mark.slow
def test_a_view_is_made_once_and_then_brought_up_to_date(
    server: ViewServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["wandb", "view"]) == 0
    assert main(["wandb", "view"]) == 0
    (name,) = server.views
    assert server.saved_ids == [None, f"view-{name}"]
    view = server.views[name]
    assert (view["displayName"], view["place"]) == ("GRPO", ("team", "games"))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(f"view of games: http://127.0.0.1:{server.server_port}/team/games?nw=")
    sections = json.loads(view["spec"])["section"]["panelBankConfig"]["sections"]
    assert [section["name"] for section in sections[: len(SECTIONS)]] == list(SECTIONS)
    reward = sections[0]["panels"][0]["config"]
    assert (reward["chartTitle"], reward["xAxis"], reward["metrics"]) == ("Reward", "schedule/step", ["reward/mean"])

    server.views.clear()  # somebody removed it
    assert main(["wandb", "view", "--entity", "other"]) == 0
    assert main(["wandb", "view"]) == 0
    assert len(server.views) == 2
    assert len(json.loads((tmp_path / "data/wandb-views.json").read_text())) == 2


@pytest.mark.slow
@pytest.mark.parametrize("answer", [{}, {"upsertView": None}, {"upsertView": {"view": []}}, []])
def test_an_answer_of_another_kind_is_one_line(
    server: ViewServer, capsys: pytest.CaptureFixture[str], answer: Any
) -> None:
    server.answer = answer
    assert main(["wandb", "view"]) == 2
    assert "W&B, project 'games': " in capsys.readouterr().err.splitlines()[-1]


def test_each_chart_shows_metrics_that_are_logged_on_their_own_axis() -> None:
    logged = [name for names in NAMES.values() for name in names.values()]
    patterns = {pattern.format(device=device, function="*") for pattern in logged for device in ("gpu/*", "host")}
    for chart in (chart for charts in SECTIONS.values() for chart in charts):
        for metric in chart.metrics:
            assert any(fnmatch(metric, pattern) for pattern in patterns), metric
    own = {pattern: axis for pattern, axis in AXES.items() if pattern != "*"}
    for chart in SECTIONS["Machine"][:3]:
        assert chart.axis == next(axis for pattern, axis in own.items() if fnmatch(chart.metrics[0], pattern))


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["view", "before"], "NAME and --html are for: grpo wandb push"),
        (["push"], "grpo wandb push needs a NAME"),
        (["push", "before", "--entity", "team"], "--entity is for: grpo wandb view"),
        (["view"], "set WANDB_API_KEY"),
    ],
)
def test_a_mistake_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], line: str
) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    assert main(["wandb", *arguments]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert line in error
