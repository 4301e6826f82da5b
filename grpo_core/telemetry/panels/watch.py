"""A window on the panels that refreshes itself: as high as the terminal, and scrolled with the keys."""

from __future__ import annotations

import os
import re
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.live import Live
from rich.segment import Segment
from rich.text import Text

from grpo_core.home import Home
from grpo_core.telemetry.panels.terminal import render

_DOWN, _UP = (b"\x1b[B", b"\x1bOB", b"j"), (b"\x1b[A", b"\x1bOA", b"k")
_PAGE_DOWN, _PAGE_UP = (b"\x1b[6~", b" "), (b"\x1b[5~", b"b")
_TOP, _BOTTOM = (b"\x1b[H", b"g"), (b"\x1b[F", b"G")
_QUIT = {b"q", b"\x1b"}
_KEY = re.compile(rb"\x1b\[\d*[A-Z~]|\x1bO[A-Z]|.", re.DOTALL)
_KEYS_TEXT = "arrows, space and b scroll, q ends"


def watch(home: Home, interval_s: float = 1.0, console: Console | None = None, run: str | None = None) -> None:
    """Shows the panels of ``run`` and refreshes them every ``interval_s``, until q or Ctrl-C. Without ``run`` it shows
    the run whose events are the newest.

    Raises:
        ConfigError: there are no events of ``run``.
        MissingPackageError: duckdb is not installed.
    """
    window = Window(render(home, run))
    try:
        with (
            _keys() as next_keys,
            Live(window, console=console, auto_refresh=False, vertical_overflow="crop") as live,
        ):
            refresh_at_s = time.monotonic() + interval_s
            while not _QUIT.intersection(keys := next_keys(max(refresh_at_s - time.monotonic(), 0.0))):
                for key in keys:
                    window.scroll(key)
                if time.monotonic() >= refresh_at_s:
                    window.content = render(home, run)
                    refresh_at_s = time.monotonic() + interval_s
                live.update(window, refresh=True)
    except KeyboardInterrupt:
        return


class Window:
    """The part of ``content`` that fits into the terminal; where there is more, a last line says which part."""

    def __init__(self, content: RenderableType) -> None:
        self.content = content
        self._top = 0
        self._num_lines = 0
        self._height = 1

    def scroll(self, key: bytes) -> None:
        page = max(self._height - 2, 1)
        moves = (
            (_DOWN, 1),
            (_UP, -1),
            (_PAGE_DOWN, page),
            (_PAGE_UP, -page),
            (_TOP, -self._top),
            (_BOTTOM, self._num_lines),
        )
        self._top += sum(by for keys, by in moves if key in keys)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(self.content, options.update(height=None), pad=False)
        self._num_lines, self._height = len(lines), console.height - 1  # the last line is the cursor's
        shown = self._height if len(lines) <= self._height else self._height - 1
        self._top = min(max(self._top, 0), max(len(lines) - shown, 0))
        for line in lines[self._top : self._top + shown]:
            yield from line
            yield Segment.line()
        if shown < len(lines):
            last = min(self._top + shown, len(lines))
            text = f"lines {self._top + 1} to {last} of {len(lines)}; {_KEYS_TEXT}"
            yield Text(text, style="reverse", no_wrap=True, overflow="ellipsis", end="")


@contextmanager
def _keys() -> Iterator[Callable[[float], list[bytes]]]:
    """A function that waits some seconds for keys and returns them. Without a terminal there are never any."""
    if sys.stdin is None or not sys.stdin.isatty():
        yield _no_keys
        return
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    tty.setcbreak(terminal)

    def next_keys(seconds: float) -> list[bytes]:
        is_pressed, _, _ = select.select([terminal], [], [], seconds)
        return _KEY.findall(os.read(terminal, 256)) if is_pressed else []

    try:
        yield next_keys
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _no_keys(seconds: float) -> list[bytes]:
    time.sleep(seconds)
    return []
