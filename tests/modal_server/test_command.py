from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROJECT_FOLDER = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_a_command_runs_on_a_modal_of_its_own_and_its_exit_code_is_kept() -> None:
    program = "import modal; modal.Client.from_env().hello(); print('answered'); raise SystemExit(3)"
    command = [sys.executable, "-m", "tests.modal_server", sys.executable, "-c", program]
    finished = subprocess.run(command, cwd=PROJECT_FOLDER, capture_output=True, text=True, timeout=60, check=False)
    assert (finished.returncode, finished.stdout) == (3, "answered\n"), finished.stderr
