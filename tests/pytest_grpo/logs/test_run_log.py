from __future__ import annotations

import math

import pytest

from pytest_grpo.logs.records import Reading, Record
from pytest_grpo.logs.run_log import RunLog, assemble
from pytest_grpo.logs.vocabulary.quantities import PEAK_MEMORY, REWARD, STEP, TOKENS, part
from pytest_grpo.logs.vocabulary.stacks import TRL, VERL

STEP_NAME = "timing_s/step"


def verl(*records: Record, notes: tuple[str, ...] = ()) -> RunLog:
    return assemble("run", "verl's console", VERL, Reading(records, notes))


def steps(*numbers: int, seconds: float = 2.0) -> list[Record]:
    return [Record(number, {STEP_NAME: seconds}) for number in numbers]


def test_columns_are_quantities_in_their_unit_and_aligned_with_the_steps() -> None:
    run = verl(
        Record(1, {STEP_NAME: 2.0, "timing_s/gen": 1.5, "actor/lr": 1e-6}),
        Record(2, {STEP_NAME: 3.0, "perf/max_memory_allocated_gb": 2.0}),
    )
    assert run.steps == (1, 2)
    assert run.columns[STEP] == (2.0, 3.0)
    assert run.columns[part("gen")][0] == 1.5
    assert math.isnan(run.columns[part("gen")][1])
    assert run.columns[PEAK_MEMORY][1] == 2 * 1024**3
    assert (run.headlines, run.parts) == ((STEP, PEAK_MEMORY), (part("gen"),))
    assert (run.starts, run.notes) == ((1,), ())


def test_records_of_one_step_are_put_together() -> None:
    run = verl(Record(1, {STEP_NAME: 2.0}), Record(1, {"critic/rewards/mean": 0.5}), *steps(2))
    assert run.steps == (1, 2)
    assert run.columns[REWARD][0] == 0.5
    assert run.notes == ()


def test_a_record_without_anything_that_is_judged_is_no_step() -> None:
    assert verl(Record(0, {"val-core/gsm8k/reward/mean@1": 0.2}), *steps(1, 2)).steps == (1, 2)


def test_after_a_resume_the_later_value_counts_and_a_start_is_known() -> None:
    run = verl(*steps(1, 2, 3, 4), *steps(3, 4, 5, seconds=7.0))
    assert run.steps == (1, 2, 3, 4, 5)
    assert run.columns[STEP] == (2.0, 2.0, 7.0, 7.0, 7.0)
    assert run.starts == (1, 3)
    assert run.notes == ("2 steps logged again (3 to 4): the later ones count",)


def test_a_start_that_the_log_tells_is_one() -> None:
    run = verl(*steps(1, 2), Record(3, {STEP_NAME: 2.0}, is_start=True), *steps(4))
    assert (run.starts, run.notes) == ((1, 3), ())


def test_steps_out_of_order_are_sorted_and_that_is_said() -> None:
    run = verl(*steps(1, 3, 2, 4))
    assert run.steps == (1, 2, 3, 4)
    assert (run.starts, run.notes) == ((1,), ("steps are not in order: they were sorted",))


def test_values_that_are_none_are_left_out_and_counted() -> None:
    run = verl(
        Record(1, {STEP_NAME: 2.0, "critic/rewards/mean": math.nan}),
        Record(2, {STEP_NAME: math.inf, "critic/rewards/mean": -1.0}),
        Record(3, {STEP_NAME: 0.0, "critic/rewards/mean": 0.0}),
    )
    assert [math.isnan(value) for value in run.columns[STEP]] == [False, True, True]
    assert [math.isnan(value) for value in run.columns[REWARD]] == [True, False, False]
    assert run.notes == (
        "step_s: left out: 1 value NaN or infinite, 1 value not above 0",
        "reward: left out: 1 value NaN or infinite",
    )


def test_a_part_of_no_time_is_a_value() -> None:
    run = verl(Record(1, {STEP_NAME: 2.0, "timing_s/gen": 0.0}))
    assert run.columns[part("gen")] == (0.0,)
    assert run.notes == ()


def test_notes_of_the_reader_come_first() -> None:
    assert verl(*steps(1, 1), notes=("the last line is cut off and left out",)).notes[0].startswith("the last line")


def test_a_log_without_step_times_says_so() -> None:
    run = verl(Record(1, {"critic/rewards/mean": 0.5}))
    assert run.notes == ("step_s: not in this log, so neither stalls nor shares are judged",)


def test_tokens_that_count_up_become_a_rate() -> None:
    """With ``logging_steps`` of 5, as TRL has it: ``step_time`` is the mean of the five."""
    records = [Record(step, {"step_time": 2.0, "num_tokens": 300.0 * step}) for step in (5, 10, 15)]
    run = assemble("run", "TRL", TRL, Reading(tuple(records)))
    assert math.isnan(run.columns[TOKENS][0])
    assert run.columns[TOKENS][1:] == (150.0, 150.0)


def test_a_log_without_a_record_is_one_line() -> None:
    with pytest.raises(pytest.UsageError, match=r"^run: no training step in it, read as verl's console; name another"):
        verl()


def test_a_log_of_other_names_says_what_is_known_and_what_it_has() -> None:
    with pytest.raises(pytest.UsageError) as error:
        verl(Record(1, {f"x{number}": 1.0 for number in range(10)}))
    text = str(error.value)
    assert text.startswith("run: nothing in it that is judged; with the names of verl that is timing_s/step, perf/thr")
    assert text.endswith("; it has x0, x1, x2, x3, x4, x5, x6, x7 and 2 more")
    with pytest.raises(pytest.UsageError, match=r"it has no numbers$"):
        verl(Record(1, {}))
