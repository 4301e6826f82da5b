from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from grpo_core.cli import GROUPS
from grpo_core.home import Home, write_json
from pytest_grpo.baseline.files import Baseline, as_text, baselines_folder
from pytest_grpo.drift.command import main
from tests.pytest_grpo.drift.stored_runs import Store, noisy

QUIET = noisy([0.1] * 24)
SLOWER = noisy([0.1] * 12 + [0.12] * 12)
MACHINE = "Abacus 9, 2 cores, Linux, x86_64"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("GRPO_HOME", str(tmp_path / "home"))
    return Home.from_environment()


def store(home: Home, runs: list[Baseline]) -> None:
    """As --grpo-save, at the times of ``runs``."""
    for run in runs:
        write_json(baselines_folder(home) / f"{run.name}.json", json.loads(as_text(run)))


def test_a_loss_is_a_table_with_the_bisect_and_exit_code_1(
    home: Home, make_runs: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    store(home, make_runs(SLOWER))
    assert main([]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{MACHINE}: 24 runs, 3 series"
    assert lines[2].split() == ["test", "metric", "from", "to", "change", "p", "commits", "verdict"]
    assert re.fullmatch(
        r"test_phase3_trainer.py::test_step  step_speedup +[34][.\d]* +3.\d+ +-1\d.\d %  0.00\d+ +"
        r"111111111111..121212121212  loss",
        lines[3],
    )
    assert lines[4] == "  grpo bisect 111111111111 121212121212 --phase 3"
    assert lines[-1] == "loss: 2; 2 series that vary were judged (p <= 0.01 in all)"


def test_no_loss_is_exit_code_0(home: Home, make_runs: Store, capsys: pytest.CaptureFixture[str]) -> None:
    store(home, make_runs(QUIET))
    assert main([]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{MACHINE}: 24 runs, 3 series",
        "no change; 2 series that vary were judged (p <= 0.01 in all)",
    ]


def test_a_gain_is_exit_code_0(home: Home, make_runs: Store, capsys: pytest.CaptureFixture[str]) -> None:
    store(home, make_runs(SLOWER[::-1]))
    assert main([]) == 0
    assert "gain: 2; " in capsys.readouterr().out


def test_options_narrow_the_history(home: Home, make_runs: Store, capsys: pytest.CaptureFixture[str]) -> None:
    store(home, make_runs(SLOWER))
    assert main(["--since", "2026-01-13"]) == 0
    assert f"{MACHINE}: 12 runs, 3 series" in capsys.readouterr().out
    assert main(["--metric", "step_speedup:plain/reference"]) == 0
    assert main(["--metric", "step_speedup"]) == 1
    capsys.readouterr()


def test_files_are_written(home: Home, make_runs: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store(home, make_runs(SLOWER))
    assert main(["--json", str(tmp_path / "changes.json"), "--csv", str(tmp_path / "runs.csv")]) == 1
    assert len(json.loads((tmp_path / "changes.json").read_text())["changes"]) == 2
    assert len((tmp_path / "runs.csv").read_text().splitlines()) == 25
    capsys.readouterr()


def test_damaged_and_changed_runs_are_named_and_left_out(
    home: Home, make_runs: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    store(home, make_runs(QUIET))
    store(home, make_runs([0.3] * 3, prefix="dirty", dirty=True))
    (baselines_folder(home) / "broken.json").write_text("{")
    assert main([]) == 0
    printed = capsys.readouterr()
    assert "3 runs with changed files are left out: their code is unknown" in printed.out.splitlines()
    (line,) = printed.err.splitlines()
    assert line.startswith("left out: baseline ")
    assert "broken.json: damaged: it is not JSON" in line


@pytest.mark.parametrize(
    ("num_runs", "arguments", "said"),
    [
        (0, [], "has no stored runs; store each with pytest --grpo-save NAME"),
        (9, [], "history: no gate has more than 9 stored runs of one machine; 10 are needed: "),
        (12, ["--since", "2026-01-05"], "history: no gate has more than 8 stored runs of one machine; 10 are needed"),
        (
            12,
            ["--since", "2027-01-01"],
            "--since 2027-01-01 00:00: no stored run is that new; the newest is of 2026-",
        ),
        (12, ["--metric", "step_speed"], "--metric 'step_speed': not in the stored runs; did you mean step_speedup?"),
        (
            12,
            ["--metric", "xyz"],
            "--metric 'xyz': not in the stored runs; allowed are step_speedup, step_speedup:",
        ),
        (
            12,
            ["--json", "none/a.json"],
            "--json none/a.json: cannot be written: No such file or directory; name a",
        ),
        (12, ["--csv", "/"], "--csv /: cannot be written: Is a directory; name a file in a folder that you can write"),
    ],
)
def test_bad_input_is_one_line(
    home: Home,
    make_runs: Store,
    capsys: pytest.CaptureFixture[str],
    num_runs: int,
    arguments: list[str],
    said: str,
) -> None:
    store(home, make_runs(QUIET[:num_runs]))
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("grpo: error: ")
    assert said in line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--since", "soon"], "argument --since: 'soon': allowed are days and times such as 2026-01-31"),
        (["--max-p", "0"], "argument --max-p: '0': allowed are 0.001 to 0.5"),
        (["--max-p", "nan"], "argument --max-p: 'nan': allowed are 0.001 to 0.5"),
        (["--metrc", "x"], "no option '--metrc'; did you mean --metric?"),
        (["run1"], "'run1' is not expected here"),
    ],
)
def test_a_mistyped_option_is_one_line(
    home: Home, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_the_help_says_what_the_list_of_commands_says(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    shown = capsys.readouterr().out
    commands = {command.name: command for group in GROUPS.values() for command in group}
    assert f"{commands['history'].summary}\n" in shown
    assert shown.endswith("\n\nexample:\n  grpo history --since 2026-01-31\n")


@pytest.mark.slow
def test_grpo_history_is_this_program(home: Home, make_runs: Store) -> None:
    store(home, make_runs(SLOWER))
    ran = subprocess.run(
        [sys.executable, "-m", "grpo_core.cli", "history"], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stderr) == (1, "")
    assert "grpo bisect 111111111111 121212121212 --phase 3" in ran.stdout
