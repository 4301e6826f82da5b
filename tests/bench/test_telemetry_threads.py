"""Processor time of the telemetry's threads: which of them are named, and that they did work."""

from __future__ import annotations

import sys

import pytest

from bench import telemetry_threads
from bench.telemetry_cost import Services
from tests.loopback import serving


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="no other system has a clock of each thread")
def test_each_service_and_the_thread_that_emits_take_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(Services()) as services:
        environment = {name: value for name, value in services.environment.items() if not name.startswith("WANDB")}
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("WANDB_MODE", raising=False)
        telemetry_threads.main()

    title, *lines = capsys.readouterr().out.splitlines()
    spent = {name.strip(): float(took_ms) for name, took_ms in (line.rsplit(maxsplit=1) for line in lines)}
    assert title == "processor time per step, ms:"
    assert all(spent[name] > 0 for name in ("MainThread", "telemetry-axiom", "telemetry-otel"))  # there may be others
    assert set(services.num_requests) == {"ingest", "traces", "metrics"}
