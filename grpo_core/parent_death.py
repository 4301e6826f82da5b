"""Processes that end with the one that started them, however that one ends."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def signal_on_parent_death(number: signal.Signals, parent: int) -> bool:
    """Have Linux send this process signal ``number`` when the thread that started it ends. False where process
    ``parent`` has ended already, so that no signal will come.

    Raises:
        OSError: the system refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return os.getppid() == parent


def end_with_parent() -> None:
    """Have Linux kill this child of ``multiprocessing`` when its parent dies, and exit at once if it is dead already.

    "Parent" is the thread that started this process: it must live as long as this process is needed.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None, "not a child of multiprocessing"
    assert parent.pid is not None
    if not signal_on_parent_death(signal.SIGKILL, parent.pid):
        os._exit(1)
