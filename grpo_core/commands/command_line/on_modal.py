"""``--modal`` of the commands: the same work, in a container of the project's ``app.py``."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from grpo_core.config import GrpoConfig
from grpo_core.config.packages import is_own
from grpo_core.errors import ConfigError, CredentialsError, EngineError


def add_modal_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--modal", action="store_true", help="run it on Modal, on the GPU that GRPO_MODAL_GPU names (default L4)"
    )


def check_for_modal(config: GrpoConfig | None, num_workers: int = 0) -> None:
    """See here that the containers can run ``config``, with ``num_workers`` that play, as far as that can be told.

    ``config`` is None where it is that of a checkpoint, which is not here.

    Raises:
        ConfigError, ModelError: as ``grpo_core.cloud.preflight``, or GRPO_MODAL_GPU names no GPU.
    """
    from grpo_core.cloud.gpus import DEFAULT_GPU, GPU_VARIABLE, gpu_setting
    from grpo_core.cloud.preflight import check_settings, check_workers

    gpu = gpu_setting(os.environ.get(GPU_VARIABLE) or DEFAULT_GPU)
    if config is not None:
        check_settings(config, gpu)
    check_workers(num_workers, gpu)


@contextmanager
def running_app() -> Iterator[ModuleType]:
    """The module ``app`` of the working folder, running on Modal; what its containers print is printed here.

    Raises:
        ConfigError: there is no app.py here, or it refuses a setting.
        CredentialsError: Modal has no credentials of ours, or refuses them.
        EngineError: Modal, or the connection to it, failed.
        KeyboardInterrupt: Ctrl-C; the app is ended, and with it what ran.
    """
    folder = Path.cwd()
    if not (folder / "app.py").is_file():
        raise ConfigError("--modal: no app.py here; run it from the root of the project")
    import modal
    from modal import exception

    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))  # Modal finds a function in the container by its module's name
    module = importlib.import_module("app")
    interrupt: KeyboardInterrupt | None = None
    try:
        with modal.enable_output(), module.app.run():
            try:
                yield module
            except KeyboardInterrupt as error:  # the SDK ends the app and says no more of it
                interrupt = error
                raise
    except exception.AuthError as error:
        raise CredentialsError(
            f"--modal: {_one_line(error)}; run 'modal token new', or set MODAL_TOKEN_ID and MODAL_TOKEN_SECRET"
        ) from error
    except exception.Error as error:
        raise EngineError(f"--modal: {type(error).__name__}: {_one_line(error)}") from error
    if interrupt is not None:
        raise interrupt


def sources_for(app: ModuleType, environment: str) -> str:
    """What the functions of ``app`` take as ``sources``: an ``environment`` of one's own is sent, a built-in one not.

    Raises:
        ConfigError: it cannot be sent.
    """
    return app.send_sources(environment.partition(":")[0]) if is_own(environment) else ""


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")
