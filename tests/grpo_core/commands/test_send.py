"""``grpo send``: what an outage held up is sent by a command."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from grpo_core.cli import main
from grpo_core.config import build_config
from grpo_core.home import Home
from grpo_core.schedule.runs.lock import hold_run
from grpo_core.telemetry import open_telemetry
from tests.grpo_core.telemetry.ingest_server import IngestServer, running_server


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[IngestServer]:
    """An Axiom that is away, and whose dataset the environment names."""
    with running_server() as server:
        for name, value in {"TOKEN": "xaat-secret", "DATASET": "grpo-test", "URL": server.url}.items():
            monkeypatch.setenv(f"AXIOM_{name}", value)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("GRPO_HOME", str(tmp_path))
        for name in ("WANDB_API_KEY", "WANDB_MODE"):
            monkeypatch.delenv(name, raising=False)
        server.answer = 503
        yield server


def leave_events(home: Home, run: str, num_events: int) -> None:
    """What a run leaves behind whose service was away."""
    with open_telemetry(build_config({"run": run}), home) as telemetry:
        for number in range(num_events):
            telemetry.emit("rollout", batch_index=number)


def test_what_waits_is_sent_once(server: IngestServer, capsys: pytest.CaptureFixture[str]) -> None:
    leave_events(Home.from_environment(), "first", 3)
    assert main(["send", "--run", "first"]) == 1
    assert "first: 0 events to axiom, 3 wait; dataset 'grpo-test': API error 503" in capsys.readouterr().out
    server.answer = None
    assert main(["send", "--run", "first"]) == 0
    assert main(["send", "--run", "first"]) == 0

    assert capsys.readouterr().out == "first: 3 events to axiom, 0 wait\nfirst: 0 events to axiom, 0 wait\n"
    assert [event["batch_index"] for event in server.events] == [0, 1, 2]


def test_without_a_name_all_runs_and_measurements_are_sent(
    server: IngestServer, capsys: pytest.CaptureFixture[str]
) -> None:
    home = Home.from_environment()
    leave_events(home, "a.b", 1)
    leave_events(home, "c", 2)
    leave_events(home.measured, "c", 4)
    server.answer = None
    assert main(["send"]) == 0

    assert capsys.readouterr().out.splitlines() == [
        "a.b: 1 events to axiom, 0 wait",
        "c: 2 events to axiom, 0 wait",
        "c: 4 events to axiom, 0 wait",
    ]


def test_what_cannot_be_sent_is_one_line(
    server: IngestServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home.from_environment()
    assert main(["send"]) == 0
    assert capsys.readouterr().out == f"no events wait in {home.data}\n"
    leave_events(home, "first", 1)
    assert main(["send", "--run", "second"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("runs there: first")
    assert main(["send", "--run", "../first"]) == 2
    capsys.readouterr()
    monkeypatch.delenv("AXIOM_TOKEN")
    monkeypatch.delenv("AXIOM_DATASET")
    assert main(["send", "--run", "first"]) == 2
    assert "no service to send to; set AXIOM_TOKEN" in capsys.readouterr().err


def test_a_run_that_is_being_trained_sends_its_own(server: IngestServer) -> None:
    home = Home.from_environment()
    leave_events(home, "first", 1)
    codes: list[int] = []
    with hold_run(home, "first"):
        thread = threading.Thread(target=lambda: codes.append(main(["send", "--run", "first"])))
        thread.start()
        thread.join()

    assert codes == [2]
