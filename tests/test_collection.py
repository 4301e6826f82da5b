"""Every process collects the same tests: else xdist runs none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT_FOLDER = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_names_of_tests_depend_on_neither_time_nor_hashes() -> None:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-n", "0", "--slow", "-p", "no:cacheprovider"]
    names = []
    for seed in ("1", "2"):  # one after the other, so seconds lie between
        environment = os.environ | {"PYTHONHASHSEED": seed}
        done = subprocess.run(command, cwd=PROJECT_FOLDER, env=environment, capture_output=True, text=True, check=True)
        names.append([line for line in done.stdout.splitlines() if "::" in line])
    assert len(names[0]) > 5000
    assert names[0] == names[1]
