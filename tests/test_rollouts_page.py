"""The first example of docs/rollouts.md runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).resolve().parent.parent / "docs/rollouts.md").read_text(encoding="utf-8")


def test_the_example_samples_eight_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    (example, *_) = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)

    exec(compile(example, "rollouts.md", "exec"), {})

    answers = re.findall(r"(-?\d+\.\d+|-?0\.0|0)$", capsys.readouterr().out, flags=re.MULTILINE)
    assert len(answers) == 8
