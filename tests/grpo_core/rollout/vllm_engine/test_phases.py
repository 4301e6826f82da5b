"""The phases judge a run that samples with vLLM."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.grpo_core.rollout.vllm_engine.bench import HAS_VLLM

pytestmark = [pytest.mark.vllm, pytest.mark.skipif(not HAS_VLLM, reason="no vllm")]
ROOT = Path(__file__).resolve().parents[4]
GATES = {"versions_not_reached", "adapter_cache_hits", "cached_adapter_load_speedup", "identical_siblings"}
TESTS = "every_published_version or second_request or cached_adapter or siblings_differ"


def test_one_vllm_serves_the_gates_of_two_phases(vllm_model_folder: Path, tmp_path: Path) -> None:
    """With this repository's own settings, which make errors of warnings."""
    command = [sys.executable, "-m", "pytest", "bench", "--phase", "2,4", "-k", TESTS, "-p", "no:cacheprovider"]
    command += ["--grpo-model", str(vllm_model_folder), "--grpo-environment", "arithmetic", "--grpo-engine", "vllm"]
    command += ["--grpo-set", "rollout.max_kv_bytes=67108864", "--grpo-json", str(tmp_path / "rows.json")]
    ended = subprocess.run(
        [*command, "--grpo-inconclusive", "xfail"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"GRPO_HOME": str(tmp_path / "home")},
        check=False,
    )

    assert ended.returncode == 0, ended.stdout
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    verdicts = {row["metric"]: row["verdict"] for row in rows}
    assert set(verdicts) == GATES
    assert {verdict for metric, verdict in verdicts.items() if metric != "cached_adapter_load_speedup"} == {"pass"}
