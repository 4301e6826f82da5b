"""Training processes whose launcher is gone: they would train on, and hold their run, where nobody sees them."""

from __future__ import annotations

import logging
import os
import platform
import signal

from grpo_core.parent_death import signal_on_parent_death

logger = logging.getLogger(__name__)

LAUNCHER_VARIABLE = "GRPO_LAUNCHER"
"""The process id of the launcher, in the environment of the processes that it starts."""


def stop_with_launcher() -> None:
    """Have Linux send this process SIGTERM when its launcher ends, however that ends. Without one nothing changes."""
    launcher = os.environ.get(LAUNCHER_VARIABLE)
    if launcher is None or platform.system() != "Linux":
        return
    try:
        is_alive = signal_on_parent_death(signal.SIGTERM, int(launcher))
    except OSError as error:  # some sandboxes
        logger.warning("this process will outlive a launcher that is killed: prctl says %s", error.strerror)
        return
    if not is_alive:
        os.kill(os.getpid(), signal.SIGTERM)
