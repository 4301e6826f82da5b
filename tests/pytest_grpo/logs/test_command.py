from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from grpo_core.cli import GROUPS
from grpo_core.home import Home
from pytest_grpo.logs.command import main
from tests.pytest_grpo.logs.made_runs import alike, times

QUIET, SLOWER = times(200, 0.01), [2.0 * math.exp(0.1 * step / 200 + noise) for step, noise in enumerate(alike(200))]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("GRPO_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return Home.from_environment()


def write_run(name: str, step_s: Sequence[float], *, first_step: int = 1, memory_gib: float = 1.0) -> str:
    """A log of verl's file logger."""
    lines = [
        {"step": first_step + place, "data": {"timing_s/step": value, "timing_s/gen": 0.75 * value}}
        for place, value in enumerate(step_s)
    ]
    for line in lines:
        line["data"]["perf/max_memory_allocated_gb"] = memory_gib  # type: ignore[index]
    Path(name).write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return name


def test_a_quiet_run_is_exit_code_0(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([write_run("run.jsonl", QUIET)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        "run.jsonl: verl's file logger; 197 steps are judged, 4 to 200",
        "3 steps of warm-up left out (from step 1 on)",
        "",
    ]
    assert re.fullmatch("quantity +level +over 196 steps +verdict", lines[3])
    assert re.fullmatch(r"step_s +(1.99\d|2.00\d|2) s \[1.99.*\] +[+-]0.\d % \[-\d.*\] +steady", lines[4])
    assert lines[5].split() == ["peak_memory_bytes", "1", "GiB", "+0.0", "%", "[+0.0,", "+0.0]", "steady"]
    assert lines[6] == "step_s: no stalls"
    assert re.fullmatch(r"gen_s +75.0 % \[75.0, 75.0\] +1.(49|5)\d* s .* steady", lines[9])
    assert re.fullmatch(r"unaccounted +25.0 % \[25.0, 25.0\] +- +- +-", lines[10])
    assert lines[-1] == (
        "Intervals hold with 99.75 % each, 99.5 % of parts, so that about 1 % of quiet runs have a false alarm. "
        "Changes within 2 % are steady."
    )


def test_a_drift_is_exit_code_1(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([write_run("run.jsonl", SLOWER)]) == 1
    assert re.search(r"^step_s .* drifts \+5.\d %/100 steps$", capsys.readouterr().out, re.MULTILINE)


def test_a_shift_and_stalls_are_lines(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    step_s = [value * (1.2 if step >= 100 else 1) for step, value in enumerate(QUIET)]
    for place in (49, 99, 149, 199):
        step_s[place] += 10
    assert main([write_run("run.jsonl", step_s)]) == 1
    shown = capsys.readouterr().out
    assert re.search(
        r"^step_s: from step (99|10\d) on 2.\d+ s, before (1.99\d*|2.0\d*|2) s: \+(19|20).\d %$", shown, re.M
    )
    assert re.search(
        r"^step_s: 4 stalls cost 8.\d % of the time \(more than 2 %\), most of it in gen_s: "
        r"5.\d times the median around, at step 50, 100, 150, 200, every 50 steps$",
        shown,
        re.MULTILINE,
    )


def test_options_change_what_is_bad(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run("run.jsonl", SLOWER)
    assert main([run, "--tolerance", "0.2"]) == 0
    assert main([run, "--metric", "peak_memory_bytes"]) == 0
    capsys.readouterr()
    assert main([run, "--warm-up", "50"]) == 1
    assert "50 steps of warm-up left out (from step 1 on)" in capsys.readouterr().out


def test_two_runs_are_compared_and_what_that_proves_is_said(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    here, there = (
        write_run("now.jsonl", [1.5 * value for value in QUIET]),
        write_run("before.jsonl", times(200, seed=1)),
    )
    assert main([here, "--against", there]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "against before.jsonl: verl's file logger; 197 steps are judged, 4 to 200" in lines
    assert any(
        re.fullmatch(r"step_s +(3|2.99\d|3.00\d) s +(2|1.99\d|2.0\d+) s +\+\d+.\d % .* worse", line) for line in lines
    )
    assert lines[-4:] == [
        "197 steps that both runs have, 4 to 200, were compared one by one.",
        "Two runs are no paired measurement: machine, neighbours, random numbers and the order of data differ, too.",
        "Verdicts count in that runs of one code spread by 5 % (--run-spread).",
        "To prove a change of code, measure both versions in pairs, in one run: pytest --grpo-against REVISION",
    ]
    assert main([there, "--against", here]) == 0
    assert main([write_run("less.jsonl", [1.1 * value for value in QUIET]), "--against", there]) == 0
    capsys.readouterr()
    assert main(["less.jsonl", "--against", there, "--run-spread", "0.01"]) == 1


def test_a_run_of_the_home_is_named(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    home.events.mkdir(parents=True)
    write_run(str(home.events / "first.jsonl"), QUIET)
    assert main(["first"]) == 0
    assert capsys.readouterr().out.startswith("first: verl's file logger; ")


def test_files_are_written(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run("run.jsonl", SLOWER)
    assert main([run, "--against", run, "--json", "found.json", "--markdown", "found.md"]) == 1
    assert json.loads(Path("found.json").read_text())["headlines"][0]["verdict"] == "drifts"
    assert "| quantity | here | there | change | verdict |" in Path("found.md").read_text()


def test_notes_on_the_log_are_shown(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    run = Path(write_run("run.jsonl", QUIET))
    again = Path(write_run("again.jsonl", QUIET[:10], first_step=100)).read_text()
    run.write_text(f'{run.read_text()}{again}{{"step": 110, "da')
    assert main([str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == [
        "run.jsonl: verl's file logger; 194 steps are judged, 4 to 200",
        "6 steps of warm-up left out (from step 1, 100 on)",
        "the last line is cut off and left out",
        "10 steps logged again (100 to 109): the later ones count",
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "nowhere: no such file or folder, and no run in "),
        (["short.jsonl"], "short.jsonl: 7 logged steps without the 3 of warm-up; 30 are needed: judge a longer run"),
        (["run.jsonl", "--against", "nowhere"], "nowhere: no such file or folder"),
        (["run.jsonl", "--against", "other.jsonl"], "--against other.jsonl: 0 steps in common with run.jsonl"),
        (["run.jsonl", "--metric", "step"], "--metric 'step': not in run.jsonl; did you mean step_s?"),
        (["run.jsonl", "--metric", "reward"], "--metric 'reward': run.jsonl does not have it; it has step_s, peak_mem"),
        (["run.jsonl", "--metric", "xyz"], "--metric 'xyz': not in run.jsonl; it has step_s, peak_memory_bytes"),
        (["run.jsonl", "--format", "wandb"], "run.jsonl: no training step in it, read as W&B's .wandb file"),
        (["run.jsonl", "--json", "none/a.json"], "--json none/a.json: cannot be written: No such file or directory"),
        (["run.jsonl", "--markdown", "."], "--markdown .: cannot be written: Is a directory"),
    ],
)
def test_bad_input_is_one_line(home: Home, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    write_run("run.jsonl", QUIET)
    write_run("short.jsonl", QUIET[:10])
    write_run("other.jsonl", QUIET, first_step=500)
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("grpo: error: ")
    assert said in line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "the following arguments are required: RUN"),
        (["run", "--format", "verl"], "argument --format: invalid choice: 'verl' (choose from "),
        (["run", "--warm-up", "-1"], "argument --warm-up: "),
        (["run", "--warm-up", "x"], "argument --warm-up: 'x': allowed are whole numbers from 0"),
        (["run", "--tolerance", "5"], "argument --tolerance: '5': allowed are fractions from 0 to below 1"),
        (["run", "--run-spread", "nan"], "argument --run-spread: 'nan': allowed are fractions from 0 to below 1"),
        (["run", "--agianst", "x"], "no option '--agianst'; did you mean --against?"),
    ],
)
def test_a_mistyped_option_is_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_the_help_says_what_the_list_of_commands_says(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    shown = capsys.readouterr().out
    commands = {command.name: command for group in GROUPS.values() for command in group}
    assert f"{commands['judge'].summary}\n" in shown
    assert shown.endswith("\n\nexample:\n  grpo judge runs/metrics.jsonl --against runs/before.jsonl\n")


def test_it_runs_as_a_module_and_imports_no_torch(home: Home) -> None:
    run = write_run("run.jsonl", SLOWER)
    judged = [sys.executable, "-c", "import sys\nfrom pytest_grpo.logs.command import main\nmain(sys.argv[1:])\n"]
    judged[-1] += "print(*sorted({'torch', 'transformers', 'wandb', 'modal'} & sys.modules.keys()), file=sys.stderr)"
    ran = subprocess.run([*judged, run], capture_output=True, text=True, check=True)
    assert (ran.stderr.split(), ran.stdout.startswith("run.jsonl: ")) == ([], True)


@pytest.mark.slow
def test_grpo_judge_is_this_program(home: Home) -> None:
    run = write_run("run.jsonl", SLOWER)
    ran = subprocess.run(
        [sys.executable, "-m", "grpo_core.cli", "judge", run], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stderr) == (1, "")
    assert "drifts" in ran.stdout
