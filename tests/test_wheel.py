"""The wheel, installed without extras and with them, in an environment of its own and used in an empty folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.bench.test_package import packed
from tests.pytest_grpo.repositories import make_repository

PROJECT_FOLDER = Path(__file__).resolve().parent.parent
MAX_LIGHT_BYTES = 120 << 20
"""Of the whole environment without extras; docs/installation.md says how much it is."""
ONE_MOMENT = ["-o", "grpo_control=false", "-o", "grpo_max_cores_of_others=inf"]

pytestmark = pytest.mark.slow


def uv(*arguments: str) -> None:
    """Skips the test where uv has no packages to install."""
    ended = subprocess.run(
        ["uv", "--quiet", *arguments], cwd=PROJECT_FOLDER, capture_output=True, text=True, check=False
    )
    if ended.returncode:
        pytest.skip(f"uv {arguments[0]} failed: {ended.stderr.strip()[-300:]}")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    uv("build", "--wheel", "--out-dir", str(folder))
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def light(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the programs of an environment with the wheel, and no extra."""
    folder = tmp_path_factory.mktemp("light") / "venv"
    uv("venv", "--python", sys.executable, str(folder))
    uv("pip", "install", "--python", str(folder / "bin/python"), str(wheel))
    return folder / "bin"


@pytest.fixture(scope="module")
def full(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with this environment's packages behind it: as if all extras were installed."""
    folder = tmp_path_factory.mktemp("full") / "venv"
    uv("venv", "--python", sys.executable, str(folder))
    uv("pip", "install", "--python", str(folder / "bin/python"), str(wheel))
    (site,) = folder.glob("lib/*/site-packages")
    (site / "behind.pth").write_text(f"{sysconfig.get_path('purelib')}\n")  # its own .pth files count no more
    return folder / "bin"


def run(programs: Path, folder: Path, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "MODAL_"))}
    environment |= {"GRPO_HOME": str(folder / "home"), "MODAL_CONFIG_PATH": str(folder / "no-modal.toml")}
    return subprocess.run(
        [str(programs / program), *arguments],
        cwd=folder,
        env=environment | {"PATH": f"{programs}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_holds_the_packages_and_the_phases_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    folders = {name.partition("/")[0] for name in names}
    assert {folder for folder in folders if not folder.endswith(".dist-info")} == {"grpo_core", "pytest_grpo"}
    phases = {f"pytest_grpo/{path.relative_to(PROJECT_FOLDER).as_posix()}" for path in packed()}
    assert {name for name in names if name.startswith("pytest_grpo/bench/")} == phases


def test_a_first_test_passes_without_a_training_stack(light: Path, tmp_path: Path) -> None:
    begun = run(light, tmp_path, "grpo", "init")
    assert (begun.returncode, begun.stderr) == (0, "")
    assert "pip install 'pytest-grpo[bench]'" in begun.stdout
    measured = run(light, tmp_path, "pytest", "tests/test_rollout_speed.py", "--grpo-save=first", *ONE_MOMENT)
    assert measured.returncode == 0, measured.stdout + measured.stderr
    assert "1 pass, 0 fail, 0 inconclusive" in measured.stdout
    again = run(light, tmp_path, "pytest", "--grpo-compare=first", "--grpo-html=page.html", *ONE_MOMENT)
    assert again.returncode == 0, again.stdout + again.stderr
    assert (tmp_path / "page.html").stat().st_size > 10_000
    history = run(light, tmp_path, "grpo", "history")
    (line,) = history.stderr.splitlines()  # it has read them
    assert line.startswith("grpo: error: history: no gate has more than 1 stored runs of one machine; 10 are needed")


def test_two_versions_are_compared_without_a_training_stack(light: Path, tmp_path: Path) -> None:
    test = (PROJECT_FOLDER / "grpo_core/commands/starter/test_rollout_speed.py.txt").read_text()
    repository = make_repository(tmp_path / "it", {"test_speed.py": test})
    (repository / "test_speed.py").write_text(test.replace("sleep(0.0005)", "sleep(0.001)"))
    compared = run(light, repository, "pytest", "--grpo-against=HEAD", *ONE_MOMENT)
    assert "slower" in compared.stdout, compared.stdout + compared.stderr
    assert compared.returncode == pytest.ExitCode.TESTS_FAILED


@pytest.mark.parametrize(
    ("program", "arguments", "says"),
    [
        ("grpo", "train", "pip install 'pytest-grpo[train]'"),
        ("grpo", "train --help", "pip install 'pytest-grpo[train]'"),
        ("grpo", "train --modal", "pip install 'pytest-grpo[train]'"),
        ("grpo", "profile", "pip install 'pytest-grpo[train]'"),
        ("grpo", "benchmark", "pip install 'pytest-grpo[train]'"),
        ("grpo", "doctor", "pip install 'pytest-grpo[train]'"),
        ("grpo", "panels", "pip install 'pytest-grpo[dashboard]'"),
        ("grpo", "bench", "pip install 'pytest-grpo[bench]'"),
        ("pytest", "--pyargs pytest_grpo.bench --phase 3", "pip install 'pytest-grpo[bench]'"),
        ("pytest", "--modal --phase 3", "pip install 'pytest-grpo[modal]'"),
        ("pytest", "--phase 3 --grpo-system trl", "pip install 'pytest-grpo[trl]'"),
        ("python", "-c 'from·grpo_core·import·GrpoConfig'", "pip install 'pytest-grpo[train]'"),
        ("python", "-c 'from·grpo_core·import·train'", "pip install 'pytest-grpo[train]'"),
    ],
)
def test_what_is_missing_is_one_line_that_names_the_extra(
    light: Path, tmp_path: Path, program: str, arguments: str, says: str
) -> None:
    words = [word.strip("'").replace("·", " ") for word in arguments.split()]
    ended = run(light, tmp_path, program, *words)
    *before, line = [line for line in ended.stderr.splitlines() if line.strip()]
    assert says in line
    assert not before or program == "python", ended.stderr
    assert ended.returncode != 0


def test_the_fixture_of_a_system_names_the_extra(light: Path, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("def test_it(grpo_system): ...\n")
    ended = run(light, tmp_path, "pytest")
    assert "grpo: system 'grpo_core': the package " in ended.stdout, ended.stdout
    assert "pip install 'pytest-grpo[train]'" in ended.stdout
    assert "Traceback" not in ended.stdout
    assert "ModuleNotFoundError" not in ended.stdout


def test_the_light_install_is_small(light: Path) -> None:
    files = [path for path in light.parent.rglob("*") if path.is_file() and not path.is_symlink()]
    assert sum(path.stat().st_size for path in files) < MAX_LIGHT_BYTES


def test_the_phases_run_in_an_empty_folder(full: Path, tmp_path: Path) -> None:
    ended = run(full, tmp_path, "grpo", "bench", "--phase", "6", "--", "--grpo-inconclusive=xfail", "--grpo-save=first")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "2 pass, 0 fail, 0 inconclusive" in ended.stdout
    stored = (tmp_path / "home/data/baselines/first.json").read_text()
    assert '"pytest_grpo/bench/test_phase6_observability.py::test_events_reach_the_live_panels"' in stored
    assert '"pytest_grpo.bench [cpu.phase6]"' in stored or '"pytest_grpo.bench [gpu.phase6]"' in stored


MY_STACK = """
import time

import numpy as np

from pytest_grpo import Completion, GrpoSystem, Rollout


class MyStack(GrpoSystem):
    name = "my_stack"

    def __init__(self, settings): ...

    def encode(self, text):
        return np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int32)

    def rollout(self, prompts, group_size, max_tokens, *, seed, batch_size=None, greedy=False):
        start = time.perf_counter()
        time.sleep(0.005 if batch_size is None else 0.005 * len(prompts) * group_size)
        ids = np.zeros(max_tokens, dtype=np.int32)
        answer = Completion(ids, np.ones(max_tokens, dtype=np.bool_), np.zeros(max_tokens, dtype=np.float32))
        return Rollout(((answer,) * group_size,) * len(prompts), time.perf_counter() - start)
"""


def test_the_phases_judge_a_stack_of_ones_own(full: Path, tmp_path: Path) -> None:
    (tmp_path / "my_stack.py").write_text(MY_STACK)
    test = "pytest_grpo.bench.test_phase2_rollout::test_a_batch_beats_one_at_a_time"
    ended = run(full, tmp_path, "pytest", "--pyargs", test, "--grpo-system=my_stack:MyStack", *ONE_MOMENT)
    assert re.search(r"batched_speedup +\S.* pass\n1 pass, 0 fail, 0 inconclusive", ended.stdout), ended.stdout


def test_a_process_runs_the_phases_too(full: Path, tmp_path: Path) -> None:
    ended = run(full, tmp_path, "grpo", "bench", "--phase", "6", "--", "--grpo-remote=subprocess")
    assert "2 pass, 0 fail, 0 inconclusive" in ended.stdout, ended.stdout + ended.stderr
