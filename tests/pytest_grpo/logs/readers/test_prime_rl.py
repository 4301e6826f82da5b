"""The files in samples/ have the format of prime-rl's two consoles and of its metrics.jsonl, see samples/README.md."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from pytest_grpo.logs.readers.formats import read_run
from pytest_grpo.logs.readers.prime_rl import WHOLE_SECONDS, PrimeConsoleReader
from pytest_grpo.logs.run_log import RunLog
from pytest_grpo.logs.vocabulary.quantities import BROADCAST, LAG, PEAK_MEMORY, REWARD, STEP, TOKENS
from tests.pytest_grpo.logs.readers.samples import SAMPLES


def sample(name: str) -> RunLog:
    run = read_run(SAMPLES / name, name)
    assert (run.stack, run.starts, run.steps) == ("prime-rl", (0,), tuple(range(40)))
    return run


def test_the_file_of_metrics_has_several_lines_per_step() -> None:
    run = sample("prime-rl-file.jsonl")
    assert run.headlines == (STEP, BROADCAST, TOKENS, PEAK_MEMORY)
    assert [quantity.name for quantity in run.parts] == ["wait_for_batch_s", "load_data_s", "forward_backward_s"]
    accounted = [sum(values) for values in zip(*(run.columns[quantity] for quantity in run.parts), strict=True)]
    assert run.columns[STEP] == pytest.approx([value + 0.2 for value in accounted], abs=1e-4)
    assert math.isnan(run.columns[BROADCAST][0])  # nothing is sent before the first step
    assert run.notes == ("broadcast_weights_s: left out: 1 value not above 0",)


def test_the_console_of_2025_prints_hundredths_and_of_2026_whole_seconds() -> None:
    exact, rounded = sample("prime-rl-trainer-2025.log"), sample("prime-rl-trainer.log")
    assert exact.headlines == rounded.headlines == (STEP, TOKENS, PEAK_MEMORY)
    assert exact.notes == ()
    assert rounded.notes == (WHOLE_SECONDS,)
    assert rounded.columns[STEP] == pytest.approx(exact.columns[STEP], abs=1.01)
    assert rounded.columns[TOKENS] == exact.columns[TOKENS]
    assert exact.columns[STEP] == pytest.approx(sample("prime-rl-file.jsonl").columns[STEP], abs=0.01)


@pytest.mark.parametrize("name", ["prime-rl-orchestrator.log", "prime-rl-orchestrator-2025.log"])
def test_the_orchestrator_has_rewards_and_lags(name: str) -> None:
    run = sample(name)
    assert run.columns[LAG][:4] == (0.0, 1.0, 2.0, 2.0)
    assert run.columns[REWARD][0] == pytest.approx(0.3, abs=0.1)
    assert run.columns[STEP][1] == pytest.approx(sample("prime-rl-trainer-2025.log").columns[STEP][1], abs=1.01)


def test_of_both_consoles_in_one_file_the_trainers_step_counts(tmp_path: Path) -> None:
    file = tmp_path / "rl.log"
    lines = ["Step 1 |  52s | Loss 0.1 | Peak Mem. 3.0 GiB", "Step 1 | 2m 10s | Reward 0.5 | Max Off-Policy 2 | x"]
    file.write_text("".join(f"{line}\n" for line in lines))
    run = read_run(file, "rl")
    assert (run.columns[STEP], run.columns[REWARD], run.columns[LAG]) == ((52.0,), (0.5,), (2.0,))


@pytest.mark.parametrize(
    ("printed", "seconds"),
    [
        ("950ms", 0.95),
        ("52s", 52),
        ("1m 5s", 65),
        ("2m", 120),
        ("1h 2m", 3720),
        ("1d 3h", 97200),
        ("Time: 65.2s", 65.2),
    ],
)
def test_times_as_they_are_printed(tmp_path: Path, printed: str, seconds: float) -> None:
    (tmp_path / "a.log").write_text(f"09:00:00 SUCCESS Step 7 | {printed:>7} | Loss 0.1\n")
    (record,) = PrimeConsoleReader().read(tmp_path / "a.log").records
    assert record.step == 7
    assert [*record.values.values()] == [pytest.approx(seconds)]


def test_micro_steps_and_a_line_that_is_cut_off_are_left_out(tmp_path: Path) -> None:
    text = (SAMPLES / "prime-rl-trainer.log").read_text()
    (tmp_path / "cut.log").write_text(text.rstrip("\n")[:-30])
    run = read_run(tmp_path / "cut.log", "cut")
    assert run.steps == tuple(range(39))
    assert "the last line is cut off and left out" in run.notes
