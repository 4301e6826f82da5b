"""The same training in several processes on this machine, one per GPU: torchrun's own launcher, without its flags."""

from __future__ import annotations

import logging
import os
import platform
import signal
import sys
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from grpo_core.config import GrpoConfig
from grpo_core.config.arguments import train_arguments
from grpo_core.errors import LostProcessError
from grpo_core.parent_death import signal_on_parent_death
from grpo_core.schedule.interrupt import interruption

logger = logging.getLogger(__name__)

_SHUTDOWN_TIMEOUT_S = 24 * 3600
"""The processes end by themselves after a signal. By default the launcher kills them after 30 s, in a long step."""
_LAUNCHER_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
_LAUNCHER_VARIABLE = "GRPO_LAUNCHER"
"""The process id of the launcher, in the environment of the processes that it starts."""


def launch_training(config: GrpoConfig, num_processes: int, *, resume: bool = False) -> None:
    """Run ``config`` as ``grpo train`` does, in ``num_processes`` processes, and wait for its end.

    ``GRPO_HOME`` is that of the environment. Process 0 prints, writes the events and saves.

    Raises:
        LostProcessError: one of them failed; its own message says why. The others are ended.
        KeyboardInterrupt: Ctrl-C; the step under way was finished and saved.
        SystemExit: SIGTERM or another such signal, with 128 + signal; likewise.
    """
    launch(train_arguments(config, resume=resume), num_processes)


def launch(arguments: Sequence[str], num_processes: int) -> None:
    """Run ``grpo`` with ``arguments`` in ``num_processes`` processes that know of each other.

    Raises:
        LostProcessError, KeyboardInterrupt, SystemExit: as ``launch_training``.
    """
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(_SHUTDOWN_TIMEOUT_S))
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=num_processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        max_restarts=0,
        monitor_interval=0.1,
    )
    os.environ[_LAUNCHER_VARIABLE] = str(os.getpid())
    try:
        with _signals_restored():
            elastic_launch(config, sys.executable)("-m", "grpo_core.cli", *arguments)
    except SignalException as error:
        raise interruption(error.sigval) from None
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        raise LostProcessError(
            f"process {rank} of {num_processes} ended with exit code {failure.exitcode}; its message is above. "
            "Continue with --resume once that is fixed"
        ) from None
    finally:
        del os.environ[_LAUNCHER_VARIABLE]


def stop_with_launcher() -> None:
    """Have Linux send this process SIGTERM when its launcher ends, however that ends: it would train on, and hold its
    run, where nobody sees it. Without a launcher nothing changes."""
    launcher = os.environ.get(_LAUNCHER_VARIABLE)
    if launcher is None or platform.system() != "Linux":
        return
    try:
        is_alive = signal_on_parent_death(signal.SIGTERM, int(launcher))
    except OSError as error:  # some sandboxes
        logger.warning("this process will outlive a launcher that is killed: prctl says %s", error.strerror)
        return
    if not is_alive:
        os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def _signals_restored() -> Iterator[None]:
    """Restore these signals' handlers, which torchrun's launcher replaces and leaves replaced.

    Apart from ``schedule.interrupt``: no handler of ours is set here.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _LAUNCHER_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
