from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest

from pytest_grpo.logs.readers.formats import read_run
from pytest_grpo.logs.vocabulary.quantities import LAG, REWARD, ROLLOUT, STEP, TOKENS, part
from tests.pytest_grpo.logs.readers.wandb_rows import write_rows

VERL_ROW = {"timing_s/step": 2.0, "timing_s/gen": 1.5, "critic/rewards/mean": 0.5, "perf/throughput": 900.0}


@pytest.mark.parametrize("is_typed", [False, True])
def test_rows_of_verl_are_known_by_their_names(tmp_path: Path, is_typed: bool) -> None:
    rows = [{"val-core/x": 0.1}, *({**VERL_ROW, "training/global_step": step} for step in (1, 2, 3))]
    run = read_run(write_rows(tmp_path / "run-a.wandb", rows, is_typed=is_typed), "run")
    assert (run.format, run.stack, run.steps) == ("W&B's .wandb file", "verl", (1, 2, 3))
    assert run.columns[part("gen")] == (1.5,) * 3


def test_rows_of_trl_count_tokens_up(tmp_path: Path) -> None:
    rows = [
        {"train/step_time": 2.0, "train/num_tokens": 100.0 * step, "train/reward": 0.1, "train/global_step": step}
        for step in (1, 2, 3)
    ]
    run = read_run(write_rows(tmp_path / "run-a.wandb", rows), "run")
    assert (run.stack, run.headlines) == ("TRL", (STEP, TOKENS, REWARD))
    assert run.columns[TOKENS][1:] == (50.0, 50.0)


def test_timers_of_trl_come_before_the_row_of_their_steps(tmp_path: Path) -> None:
    """Two calls of the loss per step, a row per two steps, whose step time is a mean."""
    loss, inputs = (f"profiling/Time taken: GRPOTrainer.{name}" for name in ("compute_loss", "_prepare_inputs"))
    rows: list[dict[str, float]] = []
    for step in (2, 4, 6):
        calls = [{inputs: 1.0}, {"profiling/Time taken: GRPOTrainer.reward": 0.1}, {loss: 0.25}, {loss: 0.25}]
        rows += [{**call, "train/global_step": step - 2} for call in calls * 2]
        rows.append({"train/step_time": 2.0, "train/global_step": step})
    rows.append({"train/train_runtime": 9.0, "train/global_step": 6})
    run = read_run(write_rows(tmp_path / "run-a.wandb", rows), "run")
    assert (run.steps, run.notes) == ((2, 4, 6), ())
    assert math.isnan(run.columns[part("compute_loss")][0])  # nobody knows how many steps came before
    assert run.columns[part("compute_loss")][1:] == (0.5, 0.5)
    assert run.columns[part("prepare_inputs")][1:] == (1.0, 1.0)


def test_rows_of_prime_rl_have_a_step_of_their_own(tmp_path: Path) -> None:
    rows = [row for step in (5, 6) for row in ({"time/step": 60.0, "step": step}, {"perf/mfu": 20.0, "step": step})]
    run = read_run(write_rows(tmp_path / "run-a.wandb", rows), "run")
    assert (run.stack, run.steps, run.notes) == ("prime-rl", (5, 6), ())


def test_rows_of_grpo_core_are_steps_and_the_rollouts_of_their_batches(tmp_path: Path) -> None:
    """A rollout's row has the number of its batch, and the step at which it was logged."""
    step_row = {"timing/step_s": 2.0, "timing/backward_ms": 500.0, "schedule/policy_lag_steps": 1, "reward/mean": None}
    rollout_row = {"timing/rollout_s": 3.0, "timing/tokens_per_second": 70.0}
    rows = [
        {**rollout_row, "rollout/batch_index": 0},
        {**rollout_row, "rollout/batch_index": 1},
        {**step_row, "schedule/step": 1},
        {**rollout_row, "rollout/batch_index": 2, "schedule/step": 1},
        {**step_row, "schedule/step": 2},
        {**step_row, "schedule/step": 3},
        {"gpu/0/power_watts": 300.0},
    ]
    run = read_run(write_rows(tmp_path / "run-a.wandb", rows), "run")
    assert (run.stack, run.steps) == ("grpo_core", (1, 2, 3))
    assert (run.columns[STEP], run.columns[LAG]) == ((2.0,) * 3, (1.0,) * 3)
    assert run.columns[ROLLOUT] == (3.0,) * 3
    assert run.columns[part("backward")] == (0.5,) * 3
    assert REWARD not in run.columns
    assert "reward: left out: 3 values NaN or infinite" in run.notes


def test_nan_is_a_value_that_is_none(tmp_path: Path) -> None:
    rows = [{**VERL_ROW, "training/global_step": 1}, {"timing_s/step": math.nan, "training/global_step": 2}]
    run = read_run(write_rows(tmp_path / "run-a.wandb", rows), "run")
    assert run.notes == ("step_s: left out: 1 value NaN or infinite",)


def test_a_file_that_is_cut_off_is_read_up_to_there(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "run-a.wandb", [{**VERL_ROW, "training/global_step": step} for step in (1, 2, 3)])
    file.write_bytes(file.read_bytes()[:-10])
    run = read_run(file, "run")
    assert run.steps == (1, 2)
    assert run.notes == ("the file is cut off or damaged after its last whole row",)


def test_names_that_nobody_knows_are_one_line(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "run-a.wandb", [{"loss": 0.5}])
    with pytest.raises(pytest.UsageError, match=r"^run: "):
        read_run(file, "run")


def test_without_the_package_it_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_rows(tmp_path / "run-a.wandb", [VERL_ROW])
    monkeypatch.setitem(sys.modules, "wandb.proto.wandb_internal_pb2", None)
    with pytest.raises(pytest.UsageError, match="needs the package wandb, which is not installed: run `pip install wa"):
        read_run(file, "run")
