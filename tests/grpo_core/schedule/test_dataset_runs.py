"""Training on questions of one's own: what is trained on, what is told, and a run that goes on."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch

from grpo_core.config import build_config
from grpo_core.errors import ConfigError, GrpoError
from grpo_core.evaluation.evaluator import Evaluation
from grpo_core.home import Home
from grpo_core.schedule.loop import train
from grpo_core.schedule.reports import StepReport
from grpo_core.schedule.stack import Stack, build_stack
from grpo_core.telemetry.sinks import open_telemetry
from grpo_core.training.checkpoint.checkpoint import read_checkpoint
from tests.grpo_core.schedule.run import quiet

NUM_ROWS = 7
MakeStack = Callable[..., Stack]
SOURCE = """
def length(completions, **kwargs):
    return [float(len(text)) for text in completions]

def vowels(completion):
    return sum(letter in "aeiou" for letter in completion)
"""

pytestmark = pytest.mark.usefixtures("nothing_is_left")


@pytest.fixture
def make_dataset_stack(model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeStack:
    tmp_path.joinpath("rewards_of_dataset_runs.py").write_text(dedent(SOURCE))
    monkeypatch.syspath_prepend(tmp_path)
    rows = [{"prompt": f"Q: {number} + 1 =\nA:", "answer": str(number + 1)} for number in range(NUM_ROWS)]
    (tmp_path / "questions.jsonl").write_text("\n".join(map(json.dumps, rows)))

    def make(home: str = "home", num_steps: int = 6, **sections: Any) -> Stack:
        functions = ("rewards_of_dataset_runs:length", "rewards_of_dataset_runs:vowels=0.5")
        config = build_config(
            {
                "run": "run",
                "model": {"name": str(model_folder), "device": "cpu", "lora_rank": 4},
                "environment": {"data": {"path": str(tmp_path / "questions.jsonl"), "rewards": functions}},
                "rollout": {"num_groups": 3, "group_size": 2, "max_completion_tokens": 8},
                "training": {"learning_rate": 0.01},
                "schedule": {
                    "num_steps": num_steps,
                    "max_policy_lag_steps": 0,
                    "checkpoint_every_steps": 2,
                    "torch_threads": 1,
                },
                **sections,
            }
        )
        return build_stack(config, Home(tmp_path / home / "data", tmp_path / home / "traces"))

    return make


def tensors(stack: Stack) -> dict[str, torch.Tensor]:
    return dict(stack.trainer.weights().tensors)


def test_a_run_killed_within_an_epoch_goes_on_bit_for_bit(make_dataset_stack: MakeStack, tmp_path: Path) -> None:
    """Three rows a step of seven: the kill, in step 4, falls into the second epoch."""

    whole = make_dataset_stack("whole")

    def kill_in_step_4(report: StepReport) -> None:
        if report.metrics.step == 4:  # its checkpoint is not there yet: the newest one is that of step 2
            whole.store.wait()  # its version: a copy takes time
            shutil.copytree(tmp_path / "whole", tmp_path / "killed", ignore=shutil.ignore_patterns(".*"))

    uninterrupted = train(whole, quiet(), on_step=kill_in_step_4)
    again = make_dataset_stack("killed")
    resumed = train(again, quiet(), resume=True)

    assert [report.metrics.step for report in resumed.reports] == [3, 4, 5, 6]
    assert [report.metrics.reward_mean for report in resumed.reports] == [
        report.metrics.reward_mean for report in uninterrupted.reports[2:]
    ]
    mine, its = tensors(whole), tensors(again)
    assert all(torch.equal(mine[name], its[name]) for name in mine)


def test_a_run_whose_rows_have_changed_says_so_when_it_goes_on(
    make_dataset_stack: MakeStack, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = make_dataset_stack(num_steps=2)
    train(first, quiet())
    train(make_dataset_stack(num_steps=3), quiet(), resume=True)
    assert "rows have changed" not in caplog.text

    path = Path(str(first.config.environment.data.path))
    path.write_text(path.read_text().rstrip("\n").rpartition("\n")[0])
    train(make_dataset_stack(num_steps=4), quiet(), resume=True)
    assert f"environment.data.path {path}: its rows have changed since the checkpoint" in caplog.text


def test_each_function_has_events_of_its_own(make_dataset_stack: MakeStack) -> None:
    stack = make_dataset_stack(num_steps=2)
    with open_telemetry(stack.config, stack.home) as telemetry:
        result = train(stack, telemetry)
    lines = (stack.home.events / "run.jsonl").read_text().splitlines()
    events = [event for event in map(json.loads, lines) if event["kind"] == "reward"]
    assert [event["function"] for event in events] == ["length", "vowels"] * 2
    first = {event["function"]: event for event in events[:2]}
    means = first["length"]["score_mean"] + 0.5 * first["vowels"]["score_mean"]
    assert means == pytest.approx(result.reports[0].metrics.reward_mean)
    assert all(event["num_scored"] == 6 and event["num_failed"] == 0 and event["reward_s"] >= 0 for event in events)
    assert first["length"]["score_std"] > 0


HELD_OUT = {"evaluation": {"every_steps": 2, "num_questions": 5, "num_samples": 3, "passed_at": 4.0}}


@pytest.fixture
def held_out(tmp_path: Path) -> dict[str, Any]:
    rows = [{"prompt": f"Q: {number} + 9 =\nA:", "answer": str(number + 9)} for number in range(5)]
    (tmp_path / "held_out.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return {"evaluation": HELD_OUT["evaluation"] | {"path": str(tmp_path / "held_out.jsonl")}}


def test_an_evaluation_changes_no_bit_of_the_training(make_dataset_stack: MakeStack, held_out: dict[str, Any]) -> None:
    without, watched = make_dataset_stack("without", 5), make_dataset_stack("watched", 5, **held_out)
    train(without, quiet())
    found: list[Evaluation] = []
    random.seed(3)
    before = random.getstate()
    train(watched, quiet(), on_evaluation=found.append)

    assert [one.step for one in found] == [0, 2, 4, 5]
    assert random.getstate() == before
    mine, its = tensors(without), tensors(watched)
    assert all(torch.equal(mine[name], its[name]) for name in mine)
    assert all(one.num_questions == 5 and one.num_samples == 3 for one in found)
    assert all(one.pass_at_k is not None and one.greedy_passed.low <= one.greedy_passed.value for one in found)
    assert len({one.greedy_reward_mean for one in found}) > 1


@pytest.mark.parametrize(("first", "second"), [(4, [4, 6, 7]), (5, [4, 6, 7]), (7, [8, 9])])
def test_a_run_that_goes_on_evaluates_what_is_due_and_still_there(
    first: int, second: list[int], make_dataset_stack: MakeStack, held_out: dict[str, Any]
) -> None:
    """The newest due version may have been pruned when the run stopped: with no lag two versions stay."""
    every = {"evaluation": held_out["evaluation"] | {"every_steps": 2 if first < 7 else 4}}
    train(make_dataset_stack("home", first, **every), quiet())
    found: list[Evaluation] = []

    train(make_dataset_stack("home", second[-1], **every), quiet(), resume=True, on_evaluation=found.append)

    assert [one.step for one in found] == second


def test_held_out_questions_that_are_not_there_are_said_before_a_model_is_loaded(
    make_dataset_stack: MakeStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("grpo_core.schedule.stack.load_policy", lambda *_, **__: pytest.fail("a model was loaded"))
    with pytest.raises(ConfigError, match=r"^evaluation\.path nosuch\.jsonl \(in .*\): No such file or directory"):
        make_dataset_stack(evaluation={"every_steps": 2, "path": "nosuch.jsonl"})


def test_a_prompt_that_the_model_does_not_take_is_named_by_its_row(
    make_dataset_stack: MakeStack, tmp_path: Path
) -> None:
    """The tiny model's tokenizer has no chat template."""
    chats = [{"prompt": "Q: 1 + 1 =\nA:", "answer": "2"}] * NUM_ROWS
    chats[4] = {"prompt": [{"role": "user", "content": "5 + 1?"}], "answer": "6"}  # type: ignore[dict-item]
    (tmp_path / "other.jsonl").write_text("\n".join(map(json.dumps, chats)))
    rewards = {"rewards": ("rewards_of_dataset_runs:length",)}
    with pytest.raises(GrpoError, match=r"other\.jsonl, row 5: messages need a chat template"):
        make_dataset_stack(environment={"data": {"path": str(tmp_path / "other.jsonl"), **rewards}})


def test_a_held_out_question_that_is_too_long_is_named_by_its_row(
    make_dataset_stack: MakeStack, held_out: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "long.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": prompt, "answer": "2"}) for prompt in ("1 + 1 =", "9 " * 3000)))
    evaluation = {**held_out["evaluation"], "path": str(path)}
    with pytest.raises(GrpoError, match=r"evaluation\.path .*long\.jsonl, row 2: prompt of \d+ tokens"):
        make_dataset_stack(**{**held_out, "evaluation": evaluation})


def test_the_best_checkpoint_is_kept(make_dataset_stack: MakeStack, held_out: dict[str, Any]) -> None:
    stack = make_dataset_stack("home", 8, **held_out)
    found: list[Evaluation] = []
    train(stack, quiet(), on_evaluation=found.append)
    best = max(found[1:], key=lambda one: (one.greedy_reward_mean, -one.step))
    kept = read_checkpoint(stack.checkpoint_folder / "best" / f"step-{best.step:06d}")
    assert kept.weights.version.number == best.step
    assert len(list(stack.checkpoint_folder.glob("step-*"))) == 2


def test_what_was_said_is_kept_with_what_it_earned(make_dataset_stack: MakeStack) -> None:
    import pyarrow.parquet as pq

    stack = make_dataset_stack("home", 4, telemetry={"samples_every_steps": 2})
    result = train(stack, quiet())
    folder = stack.home.samples / "run"
    assert sorted(path.name for path in folder.iterdir()) == [f"step-{step:06d}.parquet" for step in (1, 2, 4)]
    rows = pq.read_table(folder / "step-000004.parquet").to_pylist()
    assert len(rows) == 6
    for row in rows:
        assert row["prompt"] == f"Q: {row['row'] - 1} + 1 =\nA:"
        assert row["score_length"] == len(row["completion"])
        assert row["reward"] == row["score_length"] + 0.5 * row["score_vowels"]
    mean = sum(row["reward"] for row in rows) / 6
    assert mean == pytest.approx(result.reports[3].metrics.reward_mean)
    size = sum(abs(row["advantage"]) for row in rows) / 6
    assert size == pytest.approx(result.reports[3].metrics.advantage_abs_mean, rel=1e-4)


def test_samples_are_bounded(make_dataset_stack: MakeStack) -> None:
    stack = make_dataset_stack("home", 3, telemetry={"samples_every_steps": 1, "max_samples_bytes": 1})
    train(stack, quiet())
    assert [path.name for path in (stack.home.samples / "run").iterdir()] == ["step-000003.parquet"]


def test_the_configuration_in_use_has_the_learning_rate(make_dataset_stack: MakeStack) -> None:
    stack = make_dataset_stack("home", 1, training={})
    assert stack.config.training.learning_rate is None
    assert stack.config_in_use.training.learning_rate == stack.trainer.learning_rate > 0
