"""The same training in several processes on this machine, one per GPU: torchrun's own launcher, without its flags."""

from __future__ import annotations

import os
import signal
import sys
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from grpo_core.config import GrpoConfig
from grpo_core.config.arguments import train_arguments
from grpo_core.errors import LostProcessError
from grpo_core.schedule.interrupt import interruption
from grpo_core.schedule.orphans import LAUNCHER_VARIABLE

_SHUTDOWN_TIMEOUT_S = 24 * 3600
"""The processes end by themselves after a signal. By default the launcher kills them after 30 s, in a long step."""
_LAUNCHER_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


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
    os.environ[LAUNCHER_VARIABLE] = str(os.getpid())
    try:
        with _signals_restored():
            elastic_launch(config, sys.executable)("-m", "grpo_core.cli", *arguments)
    except SignalException as error:
        raise interruption(error.sigval) from None
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        raise LostProcessError(
            f"process {rank} of {num_processes} ended with exit code {failure.exitcode}; its message is above. "
            "Continue with --resume once that is mended"
        ) from None
    finally:
        del os.environ[LAUNCHER_VARIABLE]


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
