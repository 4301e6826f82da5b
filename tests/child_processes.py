"""The processes that another one has started, as tests look at them."""

from __future__ import annotations

import psutil


def children_with(text: str, pid: int | None = None) -> list[psutil.Process]:
    """Of the process ``pid``, or this one: all below it that run, and whose command line contains ``text``.

    Any child may end while it is looked at; vLLM and torch start short-lived ones as they load.
    """
    return [child for child in psutil.Process(pid).children(recursive=True) if text in _command_line(child)]


def _command_line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # also of one that has ended and that its parent has not waited for
        return ""
