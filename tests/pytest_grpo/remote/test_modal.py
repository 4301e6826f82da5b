from __future__ import annotations

import sys

import pytest

from tests.modal_server import ModalServer

APP = """
import modal

image = (
    modal.Image.debian_slim()
    .env({"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_PLUGINS": "pytest_benchmark.plugin"})
    .add_local_python_source("grpo_core", "pytest_grpo")
)
app = modal.App("small", image=image)

@app.function(timeout=300, single_use_containers=True)
def run_pytest(request: str, files: bytes):
    from pytest_grpo.remote.place import serve

    yield from serve(request, files, modal.current_function_call_id())

@app.function(timeout=300, single_use_containers=True)
def record_pytest(request: str, files: bytes):
    from pytest_grpo.remote.place import serve

    return list(serve(request, files))
"""


@pytest.fixture
def on_modal(project: pytest.Pytester, modal_server: ModalServer, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """The project with an app, and a Modal to run it on."""
    monkeypatch.delitem(sys.modules, "app", raising=False)
    project.makepyfile(app=APP)
    return project


def test_missing_credentials_are_one_line(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODAL_TOKEN_ID", "half-of-them")
    result = project.runpytest_subprocess("--phase", "2", "--modal")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert [line for line in result.errlines if line] == [
        "ERROR: --modal: no Modal credentials; run 'modal token new' or set MODAL_TOKEN_ID and MODAL_TOKEN_SECRET, "
        "or leave --modal out to measure here"
    ]


def test_a_phase_runs_in_a_container_and_is_reported_here(on_modal: pytest.Pytester, modal_server: ModalServer) -> None:
    result = on_modal.runpytest("--phase", "2,3", "--modal")
    result.assert_outcomes(passed=2, deselected=2)
    result.stdout.fnmatch_lines(["grpo: device profile of modal, mode modal, *", "3 pass, 0 fail, *"])
    assert modal_server.num_started == 2
    assert modal_server.num_containers() == 0
