from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from pytest_grpo.logs.readers.formats import read_run
from pytest_grpo.logs.readers.trainer_state import TrainerStateReader
from pytest_grpo.logs.vocabulary.quantities import REWARD, STEP, TOKENS

ROW = {"epoch": 0.1, "loss": 0.0, "learning_rate": 1e-6, "kl": 0.0, "completions/mean_length": 12.0}


def state(tmp_path: Path, rows: object) -> Path:
    file = tmp_path / "trainer_state.json"
    file.write_text(json.dumps({"best_metric": None, "global_step": 3, "log_history": rows}))
    return file


def test_rows_of_training_are_steps_and_those_of_evaluation_and_the_end_are_none(tmp_path: Path) -> None:
    rows = [
        ROW | {"step": 1, "step_time": 2.0, "num_tokens": 1000.0, "reward": 0.25},
        ROW | {"step": 2, "step_time": 2.5, "num_tokens": 2000.0, "reward": math.nan},
        {"step": 2, "epoch": 0.1, "eval_reward": 0.5, "eval_runtime": 3.0},
        {"step": 2, "epoch": 0.1, "train_runtime": 9.0, "train_loss": 0.0, "total_flos": 0.0},
        "damaged",
    ]
    run = read_run(state(tmp_path, rows), "run")
    assert run.steps == (1, 2)
    assert run.columns[STEP] == (2.0, 2.5)
    assert run.columns[TOKENS][1] == 400.0
    assert math.isnan(run.columns[REWARD][1])
    assert run.notes == ("reward: left out: 1 value NaN or infinite",)


def test_a_file_that_is_cut_off_is_one_line(tmp_path: Path) -> None:
    file = state(tmp_path, [ROW | {"step": 1, "step_time": 2.0}])
    file.write_text(file.read_text()[:-20])
    assert TrainerStateReader().recognises(file)
    with pytest.raises(pytest.UsageError, match=r"trainer_state\.json: damaged: it is not JSON \(.*\); take another"):
        read_run(file, "run")


def test_a_history_that_is_no_list_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(pytest.UsageError, match=r"has no list 'log_history'; name the trainer_state.json of a"):
        read_run(state(tmp_path, {"step": 1}), "run")
