from __future__ import annotations

import io
import os
import signal
import sys
import threading
from pathlib import Path

import pytest
from rich.console import Console

from grpo_core.errors import MissingPackageError
from grpo_core.home import Home
from grpo_core.telemetry import Telemetry
from grpo_core.telemetry.jsonl import JsonlSink
from grpo_core.telemetry.terminal import format_value, render, sparkline, watch


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(data=tmp_path / "data", traces=tmp_path / "traces")


def printed(home: Home) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(render(home))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_an_empty_home_shows_eleven_empty_panels(home: Home) -> None:
    assert printed(home).count("no events yet") == 11


def test_the_newest_values_of_the_newest_run_are_shown_per_device(home: Home) -> None:
    for run in ("older", "newer"):
        with Telemetry(run, [JsonlSink(home.events / f"{run}.jsonl")]) as telemetry:
            for percent in (10.0, 20.0, 77.5):
                for device in (0, 1):
                    telemetry.emit("gpu_stats", device_index=device, utilization_percent=percent + device)
            telemetry.emit("rollout", tokens_per_second=1234.0)
            telemetry.emit("train_step", policy_lag_steps=1, max_policy_lag_steps=2, buffer_depth=3)

    lines = printed(home).splitlines()
    text = "\n".join(lines)
    assert "newer" in text
    assert "older" not in text
    assert ["77.5" in line for line in lines if "device_index 0 utilization_percent" in line] == [True]
    assert ["78.5" in line for line in lines if "device_index 1 utilization_percent" in line] == [True]
    assert [line.split()[2] for line in lines if "tokens_per_second" in line] == ["1234"]
    assert [line.split()[2] for line in lines if " max_policy_lag_steps" in line] == ["2"]
    places = [text.index(title) for title in ("9 GPU", "10 Inference", "11 Policy lag", "1 Reward", "2 Loss")]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (True, "True"),
        ("arithmetic", "arithmetic"),
        (123_456, "123456"),
        (1_234_567, "1.23M"),
        (25_276_514_304, "25.28G"),
        (0.000123456, "0.0001235"),
    ],
)
def test_values_are_short(value: object, text: str) -> None:
    assert format_value(value) == text


def test_a_sparkline_spans_least_to_greatest_and_skips_nulls() -> None:
    assert sparkline([0.0, None, 3.5, 7.0]) == "▁▅█"
    assert sparkline([5, 5, 5]) == ""
    assert sparkline([None, "x"]) == ""


def test_watch_refreshes_until_ctrl_c(home: Home) -> None:
    class Screen(io.StringIO):
        """Presses Ctrl-C once it has shown the second event."""

        def write(self, text: str, /) -> int:
            if "111.5" in text:
                telemetry.emit("rollout", tokens_per_second=222.5)
            if "222.5" in text:
                shown.set()
            return super().write(text)

    shown = threading.Event()
    screen = Screen()
    with Telemetry("r", [JsonlSink(home.events / "r.jsonl")]) as telemetry:
        telemetry.emit("rollout", tokens_per_second=111.5)

        def press_ctrl_c() -> None:
            if shown.wait(30):
                os.kill(os.getpid(), signal.SIGINT)

        presser = threading.Thread(target=press_ctrl_c)
        presser.start()
        watch(home, interval_s=0.05, console=Console(file=screen, force_terminal=True, width=100, height=60))
        presser.join()

    assert shown.is_set()
    assert screen.getvalue().endswith("\x1b[?25h")  # the cursor is visible again


def test_watch_without_duckdb_is_one_line(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "duckdb", None)

    with pytest.raises(MissingPackageError, match="duckdb"):
        watch(home)
