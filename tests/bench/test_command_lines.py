"""What is wrong on the command line of a benchmark is one line on stderr, before anything is measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from bench import learning_curve, precision_curve, rollout_speed, trainer_speed

FEW_ROUNDS = "argument --rounds: {!r}: allowed are whole numbers from 1"
MISTAKES = {
    rollout_speed: [
        (["--rounds", "0"], FEW_ROUNDS.format("0")),
        (["--neighbours", "1,0"], "argument --neighbours: '0': allowed are whole numbers from 1"),
        (["--sequences", "8,x"], "argument --sequences: 'x': allowed are whole numbers from 1"),
        (["--sequences", "8,12"], "--sequences 12: allowed are multiples of --group-size 8"),
        (["--arms", "torch,sglang"], "argument --arms: 'torch,sglang': allowed are torch and, with it, any of no_jump"),
        (["--arms", "trl"], "argument --arms: 'trl': allowed are torch and, with it, any of"),
        (["--json", "none/speed.json"], "argument --json: none/speed.json: the folder none does not exist; create it"),
        (["--dtype", "int8"], "argument --dtype: invalid choice: 'int8'"),
        (["--model", "huge"], "model 'huge': no such preset or folder"),
        (["--device", "abacus"], "model.device 'abacus': "),
        (["--fast"], "unrecognized arguments: --fast"),
    ],
    trainer_speed: [
        (["--rounds", "none"], FEW_ROUNDS.format("none")),
        (["--arms", "padded"], "argument --arms: 'padded': allowed are shared and, with it, any of padded, trl"),
        (["--presets", "large"], "argument --presets: 'large': allowed are any of tiny, small, qwen2.5-0.5b"),
        (["--group-size", "1"], "argument --group-size: '1': allowed are whole numbers from 2"),
        (["--json", "/nowhere/speed.json"], "argument --json: /nowhere/speed.json: the folder /nowhere does not exist"),
    ],
    precision_curve: [
        (["--learning-rate", "0"], "argument --learning-rate: '0': allowed are numbers above 0"),
        (["--learning-rate", "nan"], "argument --learning-rate: 'nan': allowed are numbers above 0"),
        (["--learning-rate", "small"], "argument --learning-rate: 'small': allowed are numbers above 0"),
    ],
    learning_curve: [
        (["--steps", "3", "--window", "4"], "--window 4: allowed are 1 to --steps 3"),
        (["--steps", "3", "--window", "1", "--model", "huge"], "model 'huge': no such preset or folder"),
    ],
}


@pytest.mark.parametrize(
    ("main", "arguments", "message"),
    [
        pytest.param(benchmark.main, arguments, message, id=f"{benchmark.__name__}-{'_'.join(arguments)}")
        for benchmark, mistakes in MISTAKES.items()
        for arguments, message in mistakes
    ],
)
def test_mistakes_on_the_command_line(
    main: Callable[[Sequence[str]], int],
    arguments: Sequence[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(message)
    assert captured.err.count("\n") == 1
