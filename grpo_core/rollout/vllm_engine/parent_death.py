"""A process that ends with the one that started it, whatever ends that one."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with_parent() -> None:
    """Let Linux kill this child of ``multiprocessing`` when its parent is gone, and end at once if that is so already.

    What counts is the thread of the parent that started it: it must live as long as the parent needs this process.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None, "not a child of multiprocessing"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    if os.getppid() != parent.pid:  # gone before the call above; nobody would say so any more
        os._exit(1)
