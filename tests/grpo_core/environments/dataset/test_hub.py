"""A data set of the hub: by its id, through the package ``datasets``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.grpo_core.environments.dataset.hub import Hub
from tests.loopback import serving

pytestmark = pytest.mark.skipif(find_spec("datasets") is None, reason="datasets is not installed (extra trl)")
QUESTIONS = Path(__file__).resolve().parents[4] / "examples" / "own_questions"


def train_on(hub: Hub, name: str, home: Path) -> subprocess.CompletedProcess[str]:
    """Two steps on the data set ``name`` of ``hub``."""
    command = [sys.executable, "-m", "grpo_core.cli", "train", "--run", "run", "--dataset", name, "--steps", "2"]
    command += ["--reward", "my_rewards:exact", "--groups", "2", "--samples", "2", "--model", "adder"]
    environment = os.environ | {
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}",
        "HF_HOME": str(home / "hub"),
        "HF_HUB_OFFLINE": "0",
        "GRPO_HOME": str(home),
    }
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=QUESTIONS, check=False)


def test_a_run_trains_on_the_rows_of_a_hub_id(tmp_path: Path) -> None:
    with serving(Hub("owner/sums", {"train.jsonl": (QUESTIONS / "questions.jsonl").read_bytes()})) as hub:
        ended = train_on(hub, "owner/sums", tmp_path)

    assert ended.returncode == 0, ended.stderr
    assert any(path.endswith("/train.jsonl") for path in hub.asked)
    events = [json.loads(line) for line in (tmp_path / "data/events/run.jsonl").read_text().splitlines()]
    assert [event["step"] for event in events if event["kind"] == "train_step"] == [1, 2]


def test_a_hub_id_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with serving(Hub("owner/sums", {})) as hub:
        ended = train_on(hub, "owner/products", tmp_path)

    assert ended.returncode == 2
    (line,) = [line for line in ended.stderr.splitlines() if line]
    assert line.startswith(
        "grpo: error: environment.data.path 'owner/products': no such file or folder, so it is a hub id: "
    )
