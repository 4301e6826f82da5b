"""Torch's threads give their cores away soon, unless the user says how long they spin."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from grpo_core.kernels.openmp import SPIN_COUNT

READ = "import grpo_core, os, sys; print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, str(SPIN_COUNT)),
        ({"GOMP_SPINCOUNT": "77"}, "77"),
        ({"OMP_WAIT_POLICY": "active"}, "None"),
    ],
)
def test_the_environment_has_the_last_word(said: dict[str, str], expected: str) -> None:
    environment = {
        name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    }
    done = subprocess.run(
        [sys.executable, "-c", READ], env=environment | said, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{expected} False\n"
