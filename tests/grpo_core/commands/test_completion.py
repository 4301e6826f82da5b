"""``grpo completion``: what bash completes with the script."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from grpo_core.cli import main


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("grpo trai", ["train"]),
        ("grpo train --check", []),
        ("grpo train --eng", ["--engine"]),
        ("grpo doctor --engine v", ["vllm"]),
        ("grpo runs --p", ["--prune"]),
        ("grpo completion b", ["bash"]),
        ("grpo samples first --wor", ["--worst"]),
    ],
)
def test_bash_completes(words: str, expected: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    typed = words.split()
    script = (
        f"{capsys.readouterr().out}\nCOMP_WORDS=({words})\nCOMP_CWORD={len(typed) - 1}\n_grpo\n"
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == expected
