"""The Modal app that runs phases: the project's ``app.py``, run for this session, or a deployed app.

It has two functions that take a ``Request`` as JSON and the project's files as an archive: ``run_pytest`` yields
messages (see ``pytest_grpo.remote.worker.serve``), ``record_pytest`` returns all of them at its end.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_grpo.remote.protocol import RemoteLostError, RemoteRefusedError
from pytest_grpo.settings.modal import ModalSettings

if TYPE_CHECKING:
    from modal import Function

RECONNECT_TIMEOUT_S = 20
FUNCTIONS = ("run_pytest", "record_pytest")


class UnreachableError(RemoteLostError):
    """Modal does not answer. The SDK does not retry a refused connection."""


class ModalApp:
    """The app of the project in ``root``, as ``settings`` select it. Contacts nothing before ``running``.

    Raises:
        pytest.UsageError: credentials or the app are missing.
    """

    def __init__(self, settings: ModalSettings, root: Path) -> None:
        check_credentials()
        self._settings = settings
        self._file = root / (settings.app or "app.py")
        self.is_deployed = settings.app is not None and not settings.app.endswith(".py")
        if not self.is_deployed and not self._file.is_file():
            raise pytest.UsageError(
                f"--modal: no {self._file.name} in {root}; it must define app and run_pytest, "
                "or name a deployed app with --modal-app"
            )
        if self.is_deployed and settings.takes_gpu_away:
            raise pytest.UsageError("--modal-gpu none: a deployed app keeps its GPU; deploy it without one")

    @property
    def opening(self) -> str:
        """What happens before a phase can queue, for the terminal."""
        return f"looking up {self._settings.app}" if self.is_deployed else "building its image"

    @asynccontextmanager
    async def running(self, *, detach: bool) -> AsyncIterator[dict[str, Function[..., Any, Any]]]:
        """Its functions, while it runs. A detached app runs until its calls have ended."""
        environment = self._settings.environment
        await _connect()
        if self.is_deployed:
            import modal

            name = str(self._settings.app)
            yield {each: modal.Function.from_name(name, each, environment_name=environment) for each in FUNCTIONS}
            return
        module = self._import()
        async with module.app.run.aio(detach=detach, environment_name=environment):
            yield {each: vars(module)[each] for each in FUNCTIONS}

    def with_options(self, function: Function[..., Any, Any], phase: int) -> Function[..., Any, Any]:
        """``function`` with the settings for ``phase``."""
        from grpo_core.cloud.gpus import DEFAULT_GPU, GPU_VARIABLE, NO_GPU

        gpu = self._settings.gpu_for(phase)
        if self._settings.takes_gpu_away:
            gpu = None if gpu == NO_GPU else gpu or os.environ.get(GPU_VARIABLE) or DEFAULT_GPU
        regions = list(self._settings.regions) or None
        options: dict[str, Any] = {"gpu": gpu, "timeout": self._settings.timeout_s, "region": regions}
        given = {name: value for name, value in options.items() if value is not None}
        return function.with_options(**given) if given else function

    def _import(self) -> Any:
        """Raises RemoteRefusedError when the file cannot be used."""
        folder = str(self._file.parent)
        if folder not in sys.path:
            sys.path.insert(0, folder)  # Modal finds the function in the container by the module's name
        try:
            with _gpu_taken_away() if self._settings.takes_gpu_away else nullcontext():
                module = importlib.import_module(self._file.stem)
        except (ValueError, ImportError, SyntaxError) as error:  # e.g. a setting that app.py refuses
            raise RemoteRefusedError(f"--modal: {self._file.name}: {error}") from error
        missing = [name for name in ("app", *FUNCTIONS) if name not in vars(module)]
        if missing:
            raise RemoteRefusedError(f"--modal: {self._file.name} must define {', '.join(missing)}")
        return module


@contextmanager
def _gpu_taken_away() -> Iterator[None]:
    """Sets the variable that app.py reads at import: the SDK's options cannot remove a GPU."""
    from grpo_core.cloud.gpus import GPU_VARIABLE, NO_GPU

    before = os.environ.get(GPU_VARIABLE)
    os.environ[GPU_VARIABLE] = NO_GPU
    try:
        yield
    finally:
        os.environ.pop(GPU_VARIABLE)
        os.environ.update({} if before is None else {GPU_VARIABLE: before})


def check_credentials() -> None:
    """Raises pytest.UsageError when Modal's configuration has no token. Contacts nothing."""
    try:
        from modal.config import config
    except ModuleNotFoundError:
        raise pytest.UsageError(
            "--modal: the package modal is not installed; run: pip install 'pytest-grpo[modal]', or drop --modal to "
            "measure on this machine"
        ) from None
    if not (config.get("token_id") and config.get("token_secret")):
        raise pytest.UsageError(
            "--modal: no Modal credentials; run 'modal token new' or set MODAL_TOKEN_ID and MODAL_TOKEN_SECRET, "
            "or drop --modal to measure on this machine"
        )


@contextmanager
def translated_errors() -> Iterator[None]:
    """Translates Modal's errors to those of ``remote.protocol``."""
    from grpclib.exceptions import GRPCError, StreamTerminatedError
    from modal import exception as errors

    try:
        yield
    except (errors.AuthError, errors.PermissionDeniedError) as error:
        raise _refused(error) from error
    except (errors.NotFoundError, errors.InvalidError, errors.VersionError, errors.ImageBuildError) as error:
        raise RemoteRefusedError(f"--modal: {error}") from error
    except errors.FunctionTimeoutError as error:
        reason = f"Modal stopped it at its time limit: {error}; raise --modal-timeout"
        raise RemoteLostError(reason, may_retry=False) from error
    except (errors.InternalFailure, errors.RemoteError) as error:
        raise RemoteLostError(f"Modal lost its container: {error}") from error
    except (errors.Error, GRPCError, StreamTerminatedError, OSError, TimeoutError) as error:
        raise UnreachableError(f"Modal cannot be reached: {error or type(error).__name__}") from error


async def _connect() -> None:
    """Raises RemoteLostError when Modal does not answer in time; the SDK itself would wait for a minute."""
    import modal

    try:
        await asyncio.wait_for(modal.Client.from_env.aio(), RECONNECT_TIMEOUT_S)
    except TimeoutError as error:
        reason = f"Modal cannot be reached: no answer within {RECONNECT_TIMEOUT_S} s"
        raise RemoteLostError(reason, may_retry=False) from error


async def is_reachable() -> bool:
    """Whether Modal answers within ``RECONNECT_TIMEOUT_S``.

    Raises:
        RemoteRefusedError: Modal answers, but the credentials have expired.
    """
    import modal
    import modal.exception
    from grpclib.exceptions import GRPCError, StreamTerminatedError

    with suppress(TimeoutError):
        async with asyncio.timeout(RECONNECT_TIMEOUT_S):  # for all attempts together: one can take long
            while True:
                try:
                    client = await modal.Client.from_env.aio()
                    await client.hello.aio()
                except (modal.exception.AuthError, modal.exception.PermissionDeniedError) as error:
                    raise _refused(error) from error
                except (modal.Error, GRPCError, StreamTerminatedError, OSError):
                    await asyncio.sleep(1)
                else:
                    return True
    return False


def _refused(error: Exception) -> RemoteRefusedError:
    return RemoteRefusedError(f"--modal: Modal refused your credentials: {error}; run 'modal token new'")
