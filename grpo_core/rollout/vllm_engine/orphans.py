"""A child of ``multiprocessing`` that ends with the process that started it."""

from __future__ import annotations

import multiprocessing
import os
import signal

from grpo_core.parent_death import signal_on_parent_death


def end_with_parent() -> None:
    """Have Linux kill this child of ``multiprocessing`` when its parent dies, and exit at once if it is dead already.

    "Parent" is the thread that started this process: it must live as long as this process is needed.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None, "not a child of multiprocessing"
    assert parent.pid is not None
    if not signal_on_parent_death(signal.SIGKILL, parent.pid):
        os._exit(1)
