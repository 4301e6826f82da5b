"""The files in samples/ have the format of verl's console and of its file logger, see samples/README.md."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from pytest_grpo.logs.readers.formats import read_run
from pytest_grpo.logs.readers.verl import VerlConsoleReader, VerlFileReader
from pytest_grpo.logs.vocabulary.quantities import LAG, MEMORY, PEAK_MEMORY, REWARD, STEP, TOKENS, part
from tests.pytest_grpo.logs.readers.samples import SAMPLES


@pytest.mark.parametrize("name", ["verl-console.log", "verl-console-2024.log", "verl-file.jsonl"])
def test_all_formats_give_the_same_run(name: str) -> None:
    run = read_run(SAMPLES / name, name)
    assert (run.stack, run.notes, run.starts) == ("verl", (), (1,))
    assert run.steps == tuple(range(1, 41))
    assert run.headlines == (STEP, TOKENS, REWARD, MEMORY, PEAK_MEMORY)
    assert {"gen_s", "update_actor_s", "save_checkpoint_s"} <= {quantity.name for quantity in run.parts}
    assert "generate_sequences_s" not in {quantity.name for quantity in run.parts}  # runs within gen
    accounted = sum(run.columns[quantity][0] for quantity in run.parts if not math.isnan(run.columns[quantity][0]))
    assert run.columns[STEP][0] == pytest.approx(accounted + 0.35, abs=0.01)
    assert run.columns[PEAK_MEMORY][0] == pytest.approx(61.26 * 2**30, rel=1e-4)
    saves = [not math.isnan(value) for value in run.columns[part("save_checkpoint")]]
    assert [step for step, is_saved in zip(run.steps, saves, strict=True) if is_saved] == [10, 20, 30, 40]


def console(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "console.log"
    file.write_text(text)
    return file


def test_a_line_may_follow_a_progress_bar_or_be_of_numpy(tmp_path: Path) -> None:
    """Its values are printed by ``pprint.pformat``."""
    text = "81.49s/it]step:2 - timing_s/step:np.float64(81.5) - a/b:True - c/d:nan - perf/throughput:1e-06\n"
    (record,) = VerlConsoleReader().read(console(tmp_path, text)).records
    assert record.step == 2
    assert record.values["timing_s/step"] == 81.5
    assert record.values["perf/throughput"] == 1e-06
    assert math.isnan(record.values["c/d"])
    assert "a/b" not in record.values


@pytest.mark.parametrize(
    "line", ["val/global_step:12 - a:1", "saved to /ckpt/global_step:9/actor", "timing/step:1.25", "step:x - a:1"]
)
def test_other_lines_are_no_steps(tmp_path: Path, line: str) -> None:
    file = console(tmp_path, f"{line}\n")
    assert not VerlConsoleReader().recognises(file)
    assert VerlConsoleReader().read(file).records == ()


def test_a_last_line_that_is_cut_off_is_left_out_because_its_last_number_may_be(tmp_path: Path) -> None:
    text = (SAMPLES / "verl-console.log").read_text()
    run = read_run(console(tmp_path, text[:-3]), "cut")
    assert run.steps[-1] == 39
    assert run.notes == ("the last line is cut off and left out",)


def test_staleness_is_the_lag(tmp_path: Path) -> None:
    names = "training/off_policy/trajectory_staleness/max"
    run = read_run(console(tmp_path, f"step:1 - timing_s/step:2.0 - {names}:3\n"), "run")
    assert run.columns[LAG] == (3.0,)


def test_the_file_logger_may_add_fields_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step":1,"elapsed_seconds":5.5,"data":{"timing_s/step":2.0}}\n{"step":"x","data":{}}\n{"a":1}\n')
    assert VerlFileReader().recognises(file)
    (record,) = VerlFileReader().read(file).records
    assert record.values == {"timing_s/step": 2.0}
