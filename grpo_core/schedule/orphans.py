"""Training processes whose launcher is gone: they would train on, and hold their run, where nobody sees them."""

from __future__ import annotations

import ctypes
import os
import platform
import signal

LAUNCHER_VARIABLE = "GRPO_LAUNCHER"
"""The process id of the launcher, in the environment of the processes that it starts."""
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def stop_with_launcher() -> None:
    """Have Linux send this process SIGTERM when its launcher ends, however that ends. Without one nothing changes."""
    launcher = os.environ.get("GRPO_LAUNCHER")
    if launcher is None or platform.system() != "Linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != int(launcher):  # it died before the call above, so no signal will come
        os.kill(os.getpid(), signal.SIGTERM)
