from __future__ import annotations

import io
import os
import pty
import signal
import subprocess
import sys
import termios
import threading
from pathlib import Path

import pytest
from rich.console import Console

from grpo_core.errors import ConfigError, MissingPackageError
from grpo_core.home import Home
from grpo_core.telemetry import Telemetry
from grpo_core.telemetry.jsonl import JsonlSink
from grpo_core.telemetry.panels.terminal import format_value, render, sparkline
from grpo_core.telemetry.panels.watch import Window, watch


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(data=tmp_path / "data", traces=tmp_path / "traces")


def printed(home: Home) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(render(home))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_an_empty_home_shows_eleven_empty_panels(home: Home) -> None:
    assert printed(home).count("no events yet") == 13


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


def leave_a_run(home: Home, run: str, loss: float) -> None:
    with Telemetry(run, [JsonlSink(home.events / f"{run}.jsonl")]) as telemetry:
        telemetry.emit("gpu_stats", device_index=0, utilization_percent=50.0)
        telemetry.emit("train_step", step=7, loss=loss, step_s=2.25, reward_mean=0.5, buffer_depth=1)


def test_all_boxes_show_the_same_run(home: Home) -> None:
    leave_a_run(home, "first", 0.125)
    leave_a_run(home, "second", 0.375)
    with Telemetry("first", [JsonlSink(home.events / "first.jsonl")]) as telemetry:
        telemetry.emit("rollout", tokens_per_second=1234.0)  # the newest event, and the other run has none like it
    os.utime(home.events / "second.jsonl", (0, 0))

    assert "run first" in printed(home)
    assert "0.375" not in printed(home)
    console = Console(file=io.StringIO(), width=120)
    console.print(render(home, "second"))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "run second" in text
    assert "0.375" in text
    assert "1234" not in text


def test_a_run_that_does_not_exist_is_one_line_with_those_that_do(home: Home) -> None:
    leave_a_run(home, "first", 0.125)
    with pytest.raises(ConfigError, match=r"--run frist: no events of it in .*; runs there: first"):
        render(home, "frist")


def test_a_window_of_80_by_24_shows_loss_and_step_time(home: Home) -> None:
    leave_a_run(home, "first", 0.125)
    console = Console(file=io.StringIO(), width=80, height=24, force_terminal=False)
    console.print(Window(render(home)), end="")
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert len(lines) <= 23
    assert [line.split()[-1] for line in lines if line.startswith("loss ")] == ["0.125"]
    assert [line.split()[-1] for line in lines if line.startswith("step time")] == ["2.25"]
    assert lines[-1].startswith("lines 1 to 22 of ")


def test_keys_scroll_to_every_line_and_not_beyond(home: Home) -> None:
    leave_a_run(home, "first", 0.125)

    def shown(window: Window) -> list[str]:
        console = Console(file=io.StringIO(), width=80, height=24)
        console.print(window, end="")
        assert isinstance(console.file, io.StringIO)
        return console.file.getvalue().splitlines()[:-1]

    window = Window(render(home))
    top = shown(window)
    seen = list(top)
    for _ in range(10):
        window.scroll(b" ")
        seen += [line for line in shown(window) if line not in seen]
    bottom = shown(window)
    window.scroll(b"\x1b[A")
    assert shown(window)[1:] == bottom[:-1]
    window.scroll(b"G")
    assert shown(window) == bottom
    window.scroll(b"g")
    assert shown(window) == top
    window.scroll(b"x")
    assert shown(window) == top
    everything = Console(file=io.StringIO(), width=80)
    everything.print(render(home))
    assert isinstance(everything.file, io.StringIO)
    assert {line.rstrip() for line in everything.file.getvalue().splitlines()} == {line.rstrip() for line in seen}


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


def test_q_ends_watching_and_gives_the_terminal_back(home: Home) -> None:
    leave_a_run(home, "first", 0.125)
    controller, terminal = pty.openpty()
    before = termios.tcgetattr(terminal)
    program = "from grpo_core.cli import main; main(['panels', '--watch', '--interval-s', '3600'])"
    with subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, "GRPO_HOME": str(home.data.parent), "TERM": "xterm", "LINES": "24", "COLUMNS": "80"},
        **dict.fromkeys(("stdin", "stdout", "stderr"), terminal),
    ) as process:
        screen = ""
        for wanted, keys in (("lines 1 to 22", b"\x1b[B"), ("lines 2 to 23", b"q")):
            while wanted not in screen:
                screen += os.read(controller, 65536).decode("utf-8", "replace")
            os.write(controller, keys)
        assert process.wait() == 0
    assert termios.tcgetattr(terminal) == before
    os.close(controller)
    os.close(terminal)
