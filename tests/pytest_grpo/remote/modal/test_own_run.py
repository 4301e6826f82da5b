"""``--modal --grpo-config run.toml``: the run, its environment and its model are the same in the container."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from tests.modal_server import ModalServer

APP = """
import modal

models = modal.Volume.from_name("pytest-grpo-models", create_if_missing=True)
image = (
    modal.Image.debian_slim()
    .env({
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTEST_PLUGINS": "pytest_benchmark.plugin",
        "HF_HOME": "/models/huggingface",
        "HF_HUB_OFFLINE": "1",
    })
    .add_local_python_source("grpo_core", "pytest_grpo", ignore=["**/__pycache__"])  # with the C sources
)
app = modal.App("small", image=image)

@app.function(timeout=300, single_use_containers=True, volumes={"/models": models})
def run_pytest(request: str, files: bytes):
    from pytest_grpo.remote.worker import serve

    yield from serve(request, files, modal.current_function_call_id())

@app.function(timeout=300, single_use_containers=True)
def record_pytest(request: str, files: bytes):
    from pytest_grpo.remote.worker import serve

    return list(serve(request, files))
"""
GAME = """
from grpo_core.types import Observation

class Game:
    in_opening = False

    def reset(self, seed): self.seed, self.is_over = seed, False

    @property
    def done(self): return self.is_over

    def observe(self): return () if self.is_over else (Observation("me", f"Count to {self.seed + 3}:"),)

    def step(self, actions): self.is_over = True

    def rewards(self): return {"me": 1.0}

    def snapshot(self): return {"seed": self.seed, "is_over": self.is_over}

    def restore(self, snapshot): self.seed, self.is_over = snapshot["seed"], snapshot["is_over"]

def make(config): return Game()
"""
RUN = """
[model]
name = "{model}"
device = "cpu"

[environment]
name = "count_game:make"

[rollout]
group_size = 3
max_completion_tokens = 4
"""
SUITE = """
import os
import pytest

@pytest.mark.phase2
def test_the_run(grpo_run, grpo_system, grpo_gate):
    from grpo_core.environments import make_environment_factory

    assert "MODAL_TASK_ID" in os.environ
    game = make_environment_factory(grpo_run.environment)()
    game.reset(4)
    (observation,) = game.observe()
    assert observation.prompt == "Count to 7:"
    prompt = grpo_system.encode(observation.prompt)
    group_size, max_tokens = grpo_run.rollout.group_size, grpo_run.rollout.max_completion_tokens
    (group,) = grpo_system.rollout([prompt], group_size, max_tokens, seed=0).completions
    grpo_gate.check("batched_speedup", len(group))
"""


@pytest.fixture
def own_project(
    pytester: pytest.Pytester, modal_server: ModalServer, monkeypatch: pytest.MonkeyPatch
) -> pytest.Pytester:
    """A project with thresholds, an app, an environment and a test that plays the run."""
    monkeypatch.delitem(sys.modules, "app", raising=False)
    monkeypatch.syspath_prepend(pytester.path)
    (pytester.mkdir("bench") / "thresholds.toml").write_text(
        "[cpu.phase2]\nbatched_speedup = { equals = 3 }\n[modal.phase2]\ngpu = 'L4'\n"
    )
    pytester.makeini("[pytest]\ngrpo_control = false\n")
    pytester.makepyfile(app=APP, count_game=GAME, test_suite=SUITE)
    return pytester


@pytest.mark.slow
def test_a_model_folder_of_the_project_travels_with_it(
    own_project: pytest.Pytester, modal_server: ModalServer, model_folder: str
) -> None:
    shutil.copytree(model_folder, own_project.path / "models" / "own")
    (own_project.path / "run.toml").write_text(RUN.format(model="models/own"))
    result = own_project.runpytest("-m", "phase2", "--modal", "--grpo-config", "run.toml", "--modal-gpu", "H100")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["grpo: *mode modal, *run run.toml", "*batched_speedup*3*== 3*pass"])
    assert [one.gpu for one in modal_server.placements("run_pytest")] == ["H100:1"]


@pytest.mark.slow
def test_a_model_of_the_hub_is_found_on_the_volume(
    own_project: pytest.Pytester, modal_server: ModalServer, model_folder: str
) -> None:
    put_into_hub_cache(Path(model_folder), modal_server.volume("pytest-grpo-models") / "huggingface" / "hub")
    (own_project.path / "run.toml").write_text(RUN.format(model="me/own"))
    result = own_project.runpytest("-m", "phase2", "--modal", "--grpo-config", "run.toml")
    result.assert_outcomes(passed=1)
    assert [one.gpu for one in modal_server.placements("run_pytest")] == ["L4:1"]


def put_into_hub_cache(model: Path, hub: Path) -> None:
    """As ``hf download me/own`` leaves it."""
    folder = hub / "models--me--own"
    shutil.copytree(model, folder / "snapshots" / "0")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0")
