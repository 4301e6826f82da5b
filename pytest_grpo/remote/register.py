"""Sets up a session that runs its phases on workers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_grpo.remote.local_loop import LocalLoop
from pytest_grpo.remote.phase_runs import PhaseRuns
from pytest_grpo.remote.project_files import secrets_line
from pytest_grpo.remote.protocol import Remote
from pytest_grpo.remote.replay import RemoteReplay
from pytest_grpo.remote.request_builder import OtherTree, RequestBuilder
from pytest_grpo.settings.config import PLUGIN_CONFIG
from pytest_grpo.settings.phases import phases_of

if TYPE_CHECKING:
    from pytest_grpo.remote.modal.remote import ModalRemote


def register(config: pytest.Config, other: OtherTree | None = None) -> None:
    """Register the plugin that takes over phase tests. Nothing starts and nothing is contacted before the first one.

    With ``other``, workers compare that tree with this one.

    Raises:
        pytest.UsageError: workers cannot be started, e.g. for lack of credentials.
    """
    settings = config.stash[PLUGIN_CONFIG]
    runs_elsewhere = (lambda item: True) if other is not None else (lambda item: bool(phases_of(item)))
    config.pluginmanager.register(LocalLoop(runs_elsewhere), "grpo-local-loop")
    requests = RequestBuilder(config, other)
    if settings.modal.is_detached:
        from pytest_grpo.remote.modal.detached import Detach

        config.pluginmanager.register(Detach(_modal(config, requests), requests), "grpo-remote")
        return
    remote = _connect(config, requests)
    runs = PhaseRuns(remote, settings.modal.num_retries)
    replay = RemoteReplay(config, runs, requests, side_by_side=remote.max_side_by_side > 1)
    config.pluginmanager.register(replay, "grpo-remote")


def _connect(config: pytest.Config, requests: RequestBuilder) -> Remote:
    settings = config.stash[PLUGIN_CONFIG]
    if settings.modal.attached_run is not None:
        from pytest_grpo.remote.modal.detached import AttachedRemote

        return AttachedRemote(settings.modal.attached_run)
    if settings.remote == "modal":
        return _modal(config, requests)
    from pytest_grpo.remote.local_process import SubprocessRemote

    return SubprocessRemote(config.rootpath)


def _modal(config: pytest.Config, requests: RequestBuilder) -> ModalRemote:
    from pytest_grpo.remote.modal.app import ModalApp
    from pytest_grpo.remote.modal.remote import ModalRemote

    settings = config.stash[PLUGIN_CONFIG].modal
    config.pluginmanager.register(SecretsReport(requests), "grpo-secrets")
    return ModalRemote(ModalApp(settings, config.rootpath), requests, settings.max_containers)


class SecretsReport:
    """Says at the end which files did not leave this machine: a test there may have missed one."""

    def __init__(self, requests: RequestBuilder) -> None:
        self._requests = requests

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        line = secrets_line(self._requests.secrets)
        if line:
            terminalreporter.write_line(line)
