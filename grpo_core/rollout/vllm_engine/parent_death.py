"""Parent-death signal: a process that ends with the one that started it, however that one ends."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with_parent() -> None:
    """Have Linux kill this child of ``multiprocessing`` when its parent dies, and exit at once if it is dead already.

    "Parent" is the thread that started this process: it must live as long as this process is needed.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None, "not a child of multiprocessing"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    if os.getppid() != parent.pid:  # it died before the call above, so no signal will come
        os._exit(1)
