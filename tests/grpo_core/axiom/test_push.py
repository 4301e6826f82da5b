"""``grpo axiom push`` against a server that takes nothing that Axiom refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from grpo_core.cli import main
from grpo_core.telemetry.columns import COLUMNS, FIELDS
from grpo_core.telemetry.panels.panels import PANELS
from tests.grpo_core.axiom.api_server import ApiServer, running_api


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ApiServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("GRPO_HOME", str(tmp_path))
    monkeypatch.delenv("AXIOM_ORG_ID", raising=False)
    with running_api() as server:
        for name, value in {"TOKEN": "xaat-secret", "DATASET": "grpo-test", "URL": server.url}.items():
            monkeypatch.setenv(f"AXIOM_{name}", value)
        yield server


def save(folder: Path, name: str, *, red: int = 0, day: int = 1) -> None:
    verdicts = ["fail"] * red + ["pass"]
    rows = [["t", {"metric": f"speed{i}", "verdict": each, "reason": "too slow"}] for i, each in enumerate(verdicts)]
    content = {"name": name, "created_at": f"2026-11-0{day}T03:00:00.123456+00:00", "fingerprint": {"commit": "c0ffee"}}
    path = folder / "data/baselines" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**content, "results": rows}))


def outcomes(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line.split()[0] for line in capsys.readouterr().out.splitlines()]


def test_the_first_push_makes_all_and_the_second_changes_nothing(
    server: ApiServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path, "monday")
    save(tmp_path, "tuesday", red=20, day=2)
    assert main(["axiom", "push"]) == 0
    assert outcomes(capsys) == ["created"] * (1 + 5 + 3)
    (dashboard,) = server.dashboards.values()
    assert len(dashboard["charts"]) == len(PANELS)
    assert [mark["type"] for mark in server.annotations] == ["grpo-baseline", "grpo-baseline", "grpo-red-verdict"]
    assert server.annotations[-1]["title"] == "20 red in tuesday"
    server.lines.clear()
    assert main(["axiom", "push"]) == 0
    assert outcomes(capsys) == ["updated"] + ["unchanged"] * 8
    assert server.lines == [
        "POST /v2/dashboards 200",
        "GET /v2/monitors 200",
        "GET /v2/annotations?datasets=grpo-test 200",
    ]


def test_a_monitor_that_differs_is_brought_up_to_date_and_keeps_whom_it_tells(
    server: ApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["axiom", "push", "--notifier", "slack"]) == 0
    first, second = list(server.monitors.values())[:2]
    first["threshold"] = 99
    second["name"] = "mine: another one"
    capsys.readouterr()
    assert main(["axiom", "push"]) == 0
    assert outcomes(capsys) == ["updated", "updated", "created", "unchanged", "unchanged", "unchanged"]
    assert server.monitors[first["id"]]["threshold"] == 0
    assert server.monitors[first["id"]]["notifierIds"] == ["slack"]
    assert second["name"] == "mine: another one"


def test_panels_9_to_11_come_first_and_every_query_reads_the_dataset(server: ApiServer) -> None:
    assert main(["axiom", "push"]) == 0
    (dashboard,) = server.dashboards.values()
    by_place = sorted(dashboard["layout"], key=lambda cell: (cell["y"], cell["x"]))
    assert [cell["i"] for cell in by_place][:4] == ["panel-09", "panel-10", "panel-11", "panel-01"]
    apl = {chart["id"]: chart["query"]["apl"] for chart in dashboard["charts"]}
    for panel in PANELS:
        assert apl[f"panel-{panel.number:02}"] == panel.apl.replace("['grpo']", "['grpo-test']")
    assert "step_s_p95 = percentile(step_s, 95)" in apl["panel-04"]
    assert "percentile" not in apl["panel-09"] + apl["panel-10"] + apl["panel-11"]


def test_monitors_read_fields_that_events_have(server: ApiServer) -> None:
    assert main(["axiom", "push"]) == 0
    own = {"idle_share", "busy_s", "fall_spreads", "excess_steps"}
    for monitor in server.monitors.values():
        query = monitor["aplQuery"]
        words = {word.strip('(),"') for word in query.replace("(", " ").split() if "_" in word}
        assert {word for word in words if word.isidentifier()} <= set(COLUMNS) | set(FIELDS) | own | {"_time"} | {
            "sw_power_cap", "hw_slowdown", "sw_thermal", "hw_thermal", "hw_power_brake",
        }, query  # fmt: skip


def test_a_dry_run_prints_what_would_be_sent_and_sends_nothing(
    server: ApiServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, "monday")
    monkeypatch.delenv("AXIOM_TOKEN")
    assert main(["axiom", "push", "--dry-run"]) == 0
    printed: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert server.lines == []
    monkeypatch.setenv("AXIOM_TOKEN", "xaat-secret")
    assert main(["axiom", "push"]) == 0
    assert printed["dashboard"] in server.dashboards.values()
    assert [monitor["name"] for monitor in printed["monitors"]] == [each["name"] for each in server.monitors.values()]
    assert [mark["title"] for mark in printed["annotations"]] == ["baseline monday"]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"AXIOM_DATASET": ""}, "dataset '': only letters"),
        ({"AXIOM_DATASET": "x'] | take 1 //"}, "only letters"),
        ({"AXIOM_TOKEN": ""}, "AXIOM_TOKEN is not set"),
        ({"AXIOM_TOKEN": "wrong"}, "AXIOM_TOKEN may not POST dashboards: give it that permission"),
        ({"AXIOM_URL": "http://127.0.0.1:1"}, "no answer (ConnectionError); check the network, or AXIOM_URL"),
        ({"AXIOM_URL": "nonsense"}, "AXIOM_URL 'nonsense' is not a URL: it must be a host behind https:// or http://"),
    ],
)
def test_what_is_wrong_is_one_line(
    server: ApiServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], changes: dict[str, str],
    line: str,
) -> None:  # fmt: skip
    for name, value in changes.items():
        monkeypatch.setenv(name, value)
    assert main(["axiom", "push"]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert line in error
    assert server.monitors == {}


def test_an_axiom_that_is_out_of_order_is_one_line(server: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.status = 500
    assert main(["axiom", "push"]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert "Axiom answers 500" in error


def test_damaged_baselines_have_no_mark(server: ApiServer, tmp_path: Path) -> None:
    save(tmp_path, "monday")
    (tmp_path / "data/baselines/bad.json").write_text("{")
    (tmp_path / "data/baselines/odd.json").write_text('{"created_at": 7, "results": [[1]]}')
    assert main(["axiom", "push"]) == 0
    assert [mark["title"] for mark in server.annotations] == ["baseline monday"]
