"""``grpo trace``: the trace reaches Perfetto's page, and nobody else."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import urllib.error
import urllib.request
import webbrowser
from pathlib import Path

import pytest

from grpo_core.cli import main

PERFETTO = "https://ui.perfetto.dev"


@pytest.fixture
def trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRPO_HOME", str(tmp_path))
    path = tmp_path / "traces/first/trace.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"traceEvents": []}')
    return path


def fetched(url: str, origin: str) -> bytes:
    with urllib.request.urlopen(urllib.request.Request(url, headers={"Origin": origin}), timeout=60) as answer:
        assert answer.headers["Access-Control-Allow-Origin"] == PERFETTO
        return answer.read()


def test_perfetto_loads_the_trace_and_the_command_ends(trace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[bytes] = []
    page_loads: list[threading.Thread] = []

    def browse(url: str) -> bool:
        page, _, address = url.partition("/#!/?url=")
        assert page == PERFETTO

        def load() -> None:
            for other, origin in ((address, "http://evil.example"), (address.replace("trace.json", "x"), PERFETTO)):
                with pytest.raises(urllib.error.HTTPError, match="404"):
                    fetched(other, origin)
            answers.append(fetched(address, PERFETTO))

        page_loads.append(threading.Thread(target=load))
        page_loads[0].start()
        return True

    monkeypatch.setattr(webbrowser, "get", lambda: None)
    monkeypatch.setattr(webbrowser, "open", browse)
    assert main(["trace", "first"]) == 0
    page_loads[0].join()  # the command ends when the last byte is sent, before the page has read it
    assert answers == [trace.read_bytes()]


def test_without_a_browser_it_says_how(trace: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "grpo_core.cli", "trace", "first"],
        env={**os.environ, "BROWSER": "", "DISPLAY": "", "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout == f"open {PERFETTO}, choose 'Open trace file', and give it {trace}\n"


def test_a_name_without_a_trace_is_one_line(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", "second"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "there are: first; grpo profile --profile-name second writes one" in line
    assert main(["trace", "../first"]) == 2
