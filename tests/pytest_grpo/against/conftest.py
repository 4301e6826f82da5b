"""Two versions of a small project, whose arms report seconds of their own choice."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pytest_grpo.conftest import NO_CONTROL

LIBRARY = """
import itertools, random
SECONDS, ANSWER, NUM_PASSES, PEAK_BYTES = 1.0, 7.0, 1, 100
noise = random.Random({seed})

def seconds():
    return SECONDS * noise.uniform(0.99, 1.01)
"""

SPEED = """
import library
from pytest_grpo import Sample, close_values

def test_speed(grpo_arms):
    def step():
        quantities = {"tokens": 8.0, "num_passes": library.NUM_PASSES, "peak_bytes": library.PEAK_BYTES}
        return Sample(library.seconds(), quantities, output=[library.ANSWER])

    def plain():
        return Sample(3 * library.noise.uniform(0.99, 1.01), output=[library.ANSWER])

    step, plain = grpo_arms(agree=close_values(rtol=1e-3), step=step, plain=plain)
    assert step.seconds <= 1.0 * plain.seconds
"""


class Versions:
    """A project ``here``, and another version of it."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester
        self.here, self.other = pytester.mkdir("here"), pytester.mkdir("other")
        for seed, folder in enumerate((self.here, self.other)):
            (folder / "pytest.ini").write_text(f"[pytest]\n{NO_CONTROL}\npythonpath = .\ntestpaths = test_speed.py\n")
            (folder / "library.py").write_text(LIBRARY.format(seed=seed))
            (folder / "test_speed.py").write_text(SPEED)

    def change(self, folder: Path, before: str, after: str, file: str = "library.py") -> None:
        path = folder / file
        text = path.read_text()
        assert before in text
        path.write_text(text.replace(before, after))

    def run(self, *arguments: str) -> pytest.RunResult:
        return self.pytester.runpytest(f"--grpo-against={self.other}", "--grpo-pairs=10,20", *arguments)


@pytest.fixture
def versions(pytester: pytest.Pytester, few_plugins: None, monkeypatch: pytest.MonkeyPatch) -> Versions:
    found = Versions(pytester)
    monkeypatch.chdir(found.here)
    return found
