"""The figures of a GPU, on a CPU with a model of a few thousand weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from bench import gpu_acceptance
from bench.gpu_acceptance import TOY, main, measure
from bench.gpu_study.attention import measure_attention
from bench.gpu_study.decoding import measure_decoding
from bench.gpu_study.machine import measure_machine
from bench.gpu_study.part import run_part
from bench.gpu_study.row import Row, Work
from bench.gpu_study.swapping import measure_swapping
from bench.gpu_study.training import measure_training


def work_in(folder: Path) -> Work:
    return Work.model_validate({**TOY, "shape": "toy", "folder": str(folder), "device": "cpu"})


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    made = work_in(tmp_path_factory.mktemp("gpu"))
    rows = values(measure_machine(made))
    assert set(rows) == {"matrix_tflops", "read_gb_per_second"}
    assert min(rows.values()) > 0
    return made


def values(rows: Iterator[Row]) -> dict[str, float]:
    return {row.name: row.value for row in rows if row.value is not None}


@pytest.mark.slow
def test_training(work: Work) -> None:
    found = values(measure_training(work))
    for num_tokens in work.train_tokens:
        assert 0 < found[f"trainer_mfu_{num_tokens}"] <= 1
        assert found[f"trainer_step_s_{num_tokens}"] > 0
        assert found[f"trained_tokens_per_second_{num_tokens}"] > 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")
def test_attention(work: Work) -> None:
    rows = list(measure_attention(work))
    names = [row.name for row in rows]
    assert names[-2:] == ["flex_crossover_tokens", "flex_compilations_per_new_length"]
    assert {"attention_flex_ms_128", "attention_sdpa_ms_256"} <= set(names)
    assert all(float(row.note.rpartition(" ")[2]) < 1e-5 for row in rows[:-2])  # both compute the same


@pytest.mark.slow
def test_decoding_and_swapping(work: Work) -> None:
    threads = torch.get_num_threads()
    found = values(measure_decoding(work)) | values(measure_swapping(work))
    torch.set_num_threads(threads)
    for rows in work.decode_rows:
        assert found[f"decode_tokens_per_second_torch_{rows}"] > 0
        assert found[f"decode_bandwidth_share_torch_{rows}"] > 0
    assert found["adapter_load_ms"] > 0
    assert found["adapter_mib"] > 0.01


@pytest.mark.slow
def test_a_part_that_fails_says_why(tmp_path: Path) -> None:
    """In a process of its own, here without the model."""
    (row,) = run_part("swapping", work_in(tmp_path), 120)
    assert (row.name, row.value) == ("swapping", None)
    assert row.note.startswith("exit code 1: ModelError: model ")


def test_a_part_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    (row,) = run_part("phases", work_in(tmp_path), 0.01)
    assert row.note == "it did not end within 0 s"


def test_no_part_begins_after_the_time_is_over(tmp_path: Path) -> None:
    rows = list(measure(work_in(tmp_path), ("machine", "vllm"), 0))
    assert [row.note for row in rows] == ["no time left of 0 s"] * 2


def test_ctrl_c_keeps_the_parts_that_have_ended(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(name: str, work: Work, limit_s: float) -> list[Row]:
        if name == "training":
            raise KeyboardInterrupt
        return [Row(name="matrix_tflops", value=2.0)]

    monkeypatch.setattr(gpu_acceptance, "run_part", stopped)
    file = tmp_path / "gpu.json"
    assert main(["--shape", "toy", "--device", "cpu", "--json", str(file)]) == 130
    assert json.loads(file.read_text())["figures"]["matrix_tflops"]["value"] == 2.0
    assert capsys.readouterr().err.endswith("stopped: the parts that have ended are in the table\n")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--device", "cpu"], "--shape qwen3-4b: a CPU takes the toy only; try --device cpu --shape toy\n"),
        (["--shape", "tiny"], "argument --shape: invalid choice: 'tiny'"),
        (["--max-s", "0"], "argument --max-s: '0': allowed are whole numbers from 1\n"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    error = capsys.readouterr().err
    assert raised.value.code == 2
    assert error.startswith(line)
    assert error.count("\n") == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_one_line_says_what_runs_here(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([])
    assert capsys.readouterr().err == "--device cuda: torch finds no GPU here; try --device cpu --shape toy\n"
