"""The command line: one line for what a user can fix, and flags that reach the configuration."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from grpo_core.cli import GROUPS, OUTPUT_LOST_EXIT_CODE, Command, _parser, main
from grpo_core.commands.command_line.options import add_config_flags, config_from_flags
from grpo_core.commands.command_line.parser import USER_ERROR_EXIT_CODE
from pytest_grpo.baseline import compare
from pytest_grpo.bisect import run as bisect

COMMANDS = [command for group in GROUPS.values() for command in group]
OWN_COMMANDS = [command for command in COMMANDS if command.add_arguments is not None]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["train", "--set", "rollout.group_sise=4"], "rollout.group_sise: unknown key; did you mean group_size?"),
        (["train", "--set", "trainig.loss=grpo"], "trainig: unknown key; did you mean training?"),
        (["train", "--samples", "1"], "group_size 1"),
        (["train", "--policy-lag", "-1"], "--policy-lag: -1 is not allowed"),
        (["train", "--steps", "-1"], "--steps: -1 is not allowed"),
        (["train", "--groups", "0"], "--groups: 0 is not allowed"),
        (["train", "--set", "rollout.num_groups=0"], "rollout.num_groups: 0 is not allowed"),
        (["train", "--set", ".=1"], "--set '.=1': give SECTION.KEY=VALUE"),
        (["train", "--set", "training.=1"], "--set 'training.=1': give SECTION.KEY=VALUE"),
        (["train", "--set", "telemetry=1"], "telemetry: 1 is not allowed: it is a section; set one of its keys: "),
        (["train", "--config", "/"], "config /: Is a directory; give the path"),
        (["train", "--environment", "\udcff"], "environment.name '\\udcff' is not known"),
        (["train", "--run", ""], "run ''"),
        (["train", "--run=-x"], "run '-x' begins as an option does; choose a name like 'my-run'"),
        (["train", "--run", "nope", "--resume"], "--resume: run 'nope' has no checkpoint in "),
        (["train", "--set", "rollout.seed=1e26"], "rollout.seed: 1e+26 is not allowed"),
        (["train", "--seed", "1" + 60 * "0"], "--seed: 1000"),
        (["train", "--set", "rollout.seed=" + 5000 * "1"], "rollout.seed: '1111"),
        (["train", "--set", "rollout.seed=0x" + 5000 * "f"], "rollout.seed: "),
        (["train", "--set", "rollout.seed=" + 5000 * "["], "rollout.seed: '[[["),
        (["train", "--set", "schedule.torch_threads=1000000"], "schedule.torch_threads: 1000000 is not allowed"),
        (["train", "--set", "rollout.num_groups=1e23"], "rollout.num_groups: 1e+23 is not allowed"),
        (["train", "--groups", "100000"], "--groups: 100000 is not allowed"),
        (["train", "--set", "training.max_grad_norm=inf"], "training.max_grad_norm: inf is not allowed"),
        (["train", "--learning-rate", "nan"], "--learning-rate: nan is not allowed"),
        (["train", "--set", "telemetry.gpu_stats_interval_s=1e-9"], "gpu_stats_interval_s: 1e-09 is not allowed"),
        (["train", "--processes", "1000000"], "--processes 1000000: give 1 to 256"),
        (["train", "--run", 300 * "x"], "300 characters, at most 128 are allowed"),
        (["train", "--set", "run=x"], "--set 'run=x': a run is named with --run"),
        (["profile", "--set", "run=x"], "a measurement with --profile-name"),
        (["train", "--set", "rollout.seed="], "rollout.seed: None is not allowed"),
        (["train", "--preset", "huge"], "'huge'"),
        (
            ["train", "--engine", "vlm"],
            "--engine: 'vlm' is not allowed: Input should be 'torch', 'vllm' or",
        ),
        (["train", "--environment", "chess"], "'chess'"),
        (["train", "--resume"], "--run"),
        (["train", "--modal", "--processes", "4"], "GRPO_MODAL_GPU=H100:4"),
        (["train", "--workers", "4"], "--modal"),
        (["profile", "--profile-name", "a/b"], "'a/b'"),
        (["benchmark", "--buffer-depth", "3", "--policy-lag", "1"], "buffer_depth 3"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    arguments: list[str],
    named: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("GRPO_HOME", str(tmp_path / "home"))
    assert main(arguments) == USER_ERROR_EXIT_CODE
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("grpo: error: ")
    assert named in line
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["trian"], "grpo: no command 'trian'; did you mean train?"),
        (["--verson"], "grpo: no option '--verson'; did you mean --version?"),
        (["chess"], "grpo: no command 'chess'; see grpo --help"),
        (["train", "--grups", "3"], "grpo train: no option '--grups'; did you mean --groups?"),
        (["train", "--chess=3"], "grpo train: no option '--chess'; see grpo train --help"),
        (["train", "arithmetic"], "grpo train: 'arithmetic' is not expected here; see grpo train --help"),
        (
            ["train", "--config", ""],
            "grpo train: error: argument --config: give the path of a TOML file; see grpo train --help",
        ),
        (
            ["train", "--steps", "x"],
            "grpo train: error: argument --steps: invalid int value: 'x'; see grpo train --help",
        ),
    ],
)
def test_a_slip_is_one_line_that_says_what_was_meant(
    arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match=str(USER_ERROR_EXIT_CODE)):
        main(arguments)
    assert capsys.readouterr().err == f"{line}\n"


@pytest.mark.parametrize(
    ("arguments", "right"),
    [
        (["profile", "--profile", "rollout"], "grpo benchmark --profile rollout"),
        (["profile", "--profile", "rollout"], "grpo profile --target rollout"),
        (["benchmark", "--target", "trainer"], "grpo benchmark --profile trainer"),
        (["bench", "--target", "trainer"], "grpo benchmark --profile trainer"),
        (["bench", "--profile", "e2e"], "grpo benchmark --profile e2e"),
        (["benchmark", "--phase", "2"], "grpo bench --phase 2"),
        (["profile", "--phase=2"], "grpo bench --phase 2"),
    ],
)
def test_an_option_of_another_command_is_answered_with_that_command(
    arguments: list[str], right: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match=str(USER_ERROR_EXIT_CODE)):
        main(arguments)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"grpo {arguments[0]}: no option --")
    assert right in line


def test_without_a_command_the_help_says_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == USER_ERROR_EXIT_CODE
    shown = capsys.readouterr()
    assert shown.out == ""
    places = [shown.err.index(f"\n{title}:\n") for title in GROUPS]
    assert places == sorted(places)
    for command in COMMANDS:
        assert f"\n  {command.name:<12}{command.summary}\n" in shown.err
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert capsys.readouterr().out == shown.err


@pytest.mark.parametrize("command", OWN_COMMANDS, ids=lambda command: command.name)
def test_help_shows_defaults_and_an_example_that_parses(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([command.name, "--help"])
    shown = capsys.readouterr().out
    assert f"usage: grpo {command.name} " in shown
    assert "(default" in shown or command.name == "trace"  # it has no option with a value
    assert command.example is not None
    assert shown.endswith(f"example:\n  {command.example}\n")
    program, *arguments = command.example.split()
    assert program == "grpo"
    _parser().parse_args(arguments)


@pytest.mark.parametrize(
    ("name", "others"), [("bench", ["benchmark"]), ("benchmark", ["bench", "profile"]), ("profile", ["benchmark"])]
)
def test_help_names_the_commands_that_are_easily_confused(
    name: str, others: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([name, "--help"])
    shown = capsys.readouterr().out
    assert all(re.search(rf"grpo {other}\b", shown) for other in others)


def test_the_default_that_help_shows_is_the_one_that_holds(capsys: pytest.CaptureFixture[str]) -> None:
    for name, environment, num_steps in (("train", "arithmetic", 60), ("profile", "diplomacy", 2)):
        with pytest.raises(SystemExit, match="0"):
            main([name, "--help"])
        shown = " ".join(capsys.readouterr().out.split())
        assert f"package.module:factory (default: {environment})" in shown
        assert f"batches to collect (default: {num_steps})" in shown


def test_thresholds_has_a_help_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["thresholds", "--help"]) == 0
    assert capsys.readouterr().out.startswith("usage: grpo thresholds")


def test_flags_come_before_settings_before_the_file_before_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("[rollout]\nnum_groups = 3\ngroup_size = 3\nseed = 3\n", encoding="utf-8")
    parser = argparse.ArgumentParser()
    add_config_flags(parser, {})
    flags = parser.parse_args(
        ["--config", str(file), "--set", "rollout.group_size=4", "--set", "rollout.seed=4", "--seed", "5"]
    )
    defaults = {"rollout.num_groups": 2, "rollout.top_p": 0.5}
    rollout = config_from_flags(flags, defaults, "run").rollout
    assert (rollout.num_groups, rollout.group_size, rollout.seed, rollout.top_p) == (3, 4, 5, 0.5)


def test_the_version_is_that_of_the_installed_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"pytest-grpo {version('pytest-grpo')}\n"


def grpo(arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """What the shell makes of ``grpo ARGUMENTS``."""
    return subprocess.run(
        f"{shlex.quote(sys.executable)} -m grpo_core.cli {arguments}",
        shell=True,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_reader_that_has_enough_ends_it_quietly(tmp_path: Path) -> None:
    code = "import os, sys; os.dup2(int(sys.argv[1]), 1); from grpo_core.cli import main; sys.exit(main(['panels']))"
    reading, writing = os.pipe()
    os.close(reading)
    ran = subprocess.run(
        [sys.executable, "-c", code, str(writing)],
        pass_fds=[writing],
        env={**os.environ, "GRPO_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    os.close(writing)
    assert (ran.returncode, ran.stderr) == (OUTPUT_LOST_EXIT_CODE, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    ran = grpo("panels > /dev/full", GRPO_HOME=str(tmp_path))
    assert ran.returncode == USER_ERROR_EXIT_CODE
    assert ran.stderr == "grpo: error: cannot write the output: No space left on device; free space for it\n"


@pytest.mark.parametrize("command", ["train", "profile"])
def test_a_home_that_cannot_be_written_is_said_before_torch_is_imported(tmp_path: Path, command: str) -> None:
    (tmp_path / "file").touch()
    program = f"import sys; from grpo_core.cli import main; print(main([{command!r}]), 'torch' in sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "GRPO_HOME": str(tmp_path / "file")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.splitlines()[-1] == "2 False"
    assert ran.stderr.splitlines()[-1].endswith("it is no folder; set GRPO_HOME to a folder that you can write")


def test_an_output_in_ascii_is_no_error(tmp_path: Path) -> None:
    ran = grpo("panels", GRPO_HOME=str(tmp_path / "ä"), PYTHONIOENCODING="ascii")
    assert (ran.returncode, ran.stderr) == (0, "")


def test_thresholds_without_an_output_are_no_error() -> None:
    ran = grpo("thresholds >&-")
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.parametrize(("program", "argument"), [("compare", "BEFORE"), ("bisect", "GOOD")])
def test_the_other_programs_answer_as_the_rest(program: str, argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    run = {"compare": compare.main, "bisect": bisect.main}[program]
    with pytest.raises(SystemExit, match="0"):
        run(["--help"])
    shown = capsys.readouterr().out
    assert re.search(rf"\n\nexample:\n  grpo {program} .*\n$", shown)
    assert f"{next(command.summary for command in COMMANDS if command.name == program)}\n" in shown
    with pytest.raises(SystemExit, match=str(USER_ERROR_EXIT_CODE)):
        run([])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"grpo {program}: error: the following arguments are required: {argument}")
    assert line.endswith(f"; see grpo {program} --help")
