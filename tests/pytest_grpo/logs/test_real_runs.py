"""Logs that the stacks themselves wrote: a run of grpo_core with its events and W&B's offline folder, one of TRL."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from pytest_grpo.logs.command import main
from pytest_grpo.logs.judging import judge_run
from pytest_grpo.logs.locate import locate
from pytest_grpo.logs.readers.formats import read_run
from pytest_grpo.logs.run_log import RunLog
from pytest_grpo.logs.vocabulary.quantities import LAG, PEAK_MEMORY, REWARD, STEP, TOKENS, Quantity, part
from tests.pytest_grpo.logs.readers.samples import SAMPLES

NUM_STEPS = 40


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, model_folder: str) -> Path:
    """``GRPO_HOME`` after a run of ``grpo train`` with W&B offline."""
    home = tmp_path_factory.mktemp("home")
    flags = f"--run real --environment arithmetic --model {model_folder} --groups 1 --samples 2 --steps {NUM_STEPS}"
    command = [sys.executable, "-m", "grpo_core.cli", "train", *flags.split(), "--device", "cpu"]
    environment = {**os.environ, "GRPO_HOME": str(home), "WANDB_ERROR_REPORTING": "false"}
    subprocess.run([*command, "--set", "telemetry.wandb=offline"], env=environment, check=True, capture_output=True)
    return home


def read(path: Path) -> RunLog:
    return read_run(locate(str(path), path), path.name)


def known(values: Sequence[float]) -> list[float]:
    return [value for value in values if not math.isnan(value)]


@pytest.mark.slow
def test_the_events_of_grpo_train_and_its_wandb_folder_are_the_same_run(home: Path) -> None:
    events, logged = read(home / "data/events/real.jsonl"), read(home / "data/wandb")
    assert events.steps == logged.steps == tuple(range(1, NUM_STEPS + 1))
    assert (events.stack, logged.stack) == ("grpo_core", "grpo_core")
    both: tuple[Quantity, ...] = (STEP, TOKENS, LAG, REWARD, PEAK_MEMORY, part("backward"), part("publish"))
    for quantity in both:
        assert events.columns[quantity] == pytest.approx(logged.columns[quantity])
        assert len(known(events.columns[quantity])) == NUM_STEPS


@pytest.mark.slow
def test_a_run_of_grpo_train_is_judged_by_its_name(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GRPO_HOME", str(home))
    assert main(["real"]) in (0, 1)
    shown = capsys.readouterr().out
    assert f"real: events of grpo_core; {NUM_STEPS - 3} steps are judged, 4 to {NUM_STEPS}" in shown
    assert "unaccounted" in shown
    judged = judge_run(read(home / "data/events/real.jsonl"), 3, 0.02)
    assert judged.shares is not None
    assert 0 <= judged.shares.unaccounted.value < 0.5


def test_a_run_of_trl() -> None:
    run = read_run(SAMPLES / "trainer-state.json", "trl")
    assert (run.stack, run.headlines, run.notes) == ("TRL", (STEP, TOKENS, REWARD), ())
    assert run.steps == tuple(range(1, 41))
    assert min(known(run.columns[TOKENS])) > 0
    assert len(known(run.columns[TOKENS])) == 39
