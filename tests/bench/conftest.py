"""The smallest setup of the speed benchmarks, and a short run of one."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bench.rollout_arms.arm import Setup
from grpo_core.config import ModelConfig

SMALL = ("--threads", "1", "--group-size", "2", "--prompt-tokens", "24", "--new-tokens", "4", "--rounds", "2")


@dataclass(frozen=True, slots=True)
class ShortRun:
    figures: Mapping[str, Mapping[str, Any]]
    tables: str
    progress: str


RunShort = Callable[[Callable[[Sequence[str]], int], Sequence[str]], ShortRun]


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return Setup(ModelConfig(name="tiny", device="cpu"), num_threads=1, max_sequences=4, folder=tmp_path)


@pytest.fixture
def run_short(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> RunShort:
    """Runs the ``main`` of a benchmark on little work; its files hold figures of one form, and what it printed."""

    def run(main: Callable[[Sequence[str]], int], arguments: Sequence[str]) -> ShortRun:
        file, page = tmp_path / "speed.json", tmp_path / "speed.md"
        assert main([*SMALL, *arguments, "--json", str(file), "--markdown", str(page)]) == 0
        figures = json.loads(file.read_text(encoding="utf-8"))
        assert figures
        for figure in figures.values():
            assert figure.keys() == {"median", "low", "high", "n", "unit"}
        printed = capsys.readouterr()
        assert page.read_text(encoding="utf-8") == printed.out
        return ShortRun(figures, printed.out, printed.err)

    return run
