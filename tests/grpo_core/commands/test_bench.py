"""``grpo bench`` runs the phases of the project's bench/ folder, or those that come with the package."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PHASE_2 = "import pytest\n\n@pytest.mark.phase2\ndef test_own(grpo_gate): ...\n"


def bench(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "grpo_core.cli", "bench", *arguments, "--", "--co", "-q"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def collected(ended: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in ended.stdout.splitlines() if "::" in line]


def test_in_an_empty_folder_it_runs_the_phases_of_the_package(tmp_path: Path) -> None:
    ended = bench(tmp_path, "--phase", "6")
    assert collected(ended) == ["pytest_grpo/bench/test_phase6_observability.py::test_events_reach_the_live_panels"]
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.slow
def test_whatever_the_project_calls_its_own_test_files(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\npython_files = check_*.py\naddopts = --strict-markers\n")
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "thresholds.toml").write_text("[cpu.phase2]\n[gpu.phase2]\n")  # as grpo init leaves it
    assert len(collected(bench(tmp_path, "--phase", "6"))) == 1


def test_where_bench_has_tests_it_runs_those(tmp_path: Path) -> None:
    (tmp_path / "bench" / "inner").mkdir(parents=True)
    (tmp_path / "bench" / "thresholds.toml").write_text("[cpu.phase2]\n[gpu.phase2]\n")
    (tmp_path / "bench" / "inner" / "test_own.py").write_text(PHASE_2)
    assert collected(bench(tmp_path)) == ["bench/inner/test_own.py::test_own"]


def test_arguments_after_the_dashes_go_to_pytest(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "grpo_core.cli", "bench", "--phase", "3", "--", "--grpo-system", "nope"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == pytest.ExitCode.USAGE_ERROR
    assert ended.stderr.startswith("ERROR: system 'nope': no such system; choose one of ")


RUN = '[model]\nname = "small"\n[rollout]\ngroup_size = 5\n'


@pytest.mark.parametrize(
    ("arguments", "run"),
    [
        (("--config", "run.toml"), "run.toml"),
        *(
            pytest.param(arguments, run, marks=pytest.mark.slow)
            for arguments, run in (
                (("--config", "run.toml", "--set", "rollout.group_size=3"), "run.toml, rollout.group_size=3"),
                (("--model", "small", "--engine", "plain"), "model.name=small, rollout.engine=plain"),
                (("--preset", "small", "--environment", "arithmetic"), "model.name=small, environment.name=arithmetic"),
            )
        ),
    ],
)
def test_the_phases_judge_the_run_that_its_flags_name(tmp_path: Path, arguments: tuple[str, ...], run: str) -> None:
    (tmp_path / "run.toml").write_text(RUN)
    command = [sys.executable, "-m", "grpo_core.cli", "bench", "--phase", "6", *arguments, "--", "--co"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert f"run {run}" in ended.stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--config", "runn.toml"), "ERROR: --grpo-config 'runn.toml': no such file; "),
        pytest.param(("--engine", "vlm"), "ERROR: grpo: --grpo-engine", marks=pytest.mark.slow),
        pytest.param(("--set", "rolout.group_size=3"), "ERROR: grpo: rolout", marks=pytest.mark.slow),
        (("--modle", "small"), "grpo bench: no option '--modle'; did you mean --model?"),
    ],
)
def test_a_mistake_in_the_run_is_one_line(tmp_path: Path, arguments: tuple[str, ...], told: str) -> None:
    ended = bench(tmp_path, *arguments)
    assert ended.returncode != 0
    assert ended.stderr.startswith(told)
    assert len(ended.stderr.strip().splitlines()) == 1


WAITING = """
import pathlib, threading, pytest

@pytest.mark.phase2
def test_first(grpo_gate):
    grpo_gate.check("adapter_cache_hits", 1)

@pytest.mark.phase2
def test_waits(grpo_gate):
    pathlib.Path("begun").touch()
    threading.Event().wait(60)
"""


@pytest.mark.slow
def test_an_interrupt_shows_the_verdicts_so_far(tmp_path: Path) -> None:
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "thresholds.toml").write_text("[cpu.phase2]\nadapter_cache_hits = { equals = 1 }\n")
    (tmp_path / "bench" / "test_own.py").write_text(WAITING)
    command = [sys.executable, "-m", "grpo_core.cli", "bench"]
    started = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True, start_new_session=True)
    while not (tmp_path / "begun").exists():
        assert started.poll() is None
        time.sleep(0.05)
    os.killpg(started.pid, signal.SIGINT)
    shown, _ = started.communicate()
    assert started.returncode == pytest.ExitCode.INTERRUPTED
    assert "1 pass, 0 fail" in shown
