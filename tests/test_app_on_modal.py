"""The whole app on the local Modal server: deployed once, its containers killed, its volumes read by others."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import modal
import modal.exception
import pytest

from grpo_core.errors import ConfigError
from tests.grpo_core.ledger.identity import check_identity
from tests.grpo_core.telemetry.otel.traces import check_traces
from tests.modal_server import ModalServer
from tests.modal_server.fixture import use

PROJECT_FOLDER = Path(__file__).resolve().parent.parent
SMALL: dict[str, Any] = {"groups": 4, "samples": 2, "environment": "arithmetic"}


def command(*arguments: str, settings: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """``python -m ARGUMENTS`` at the root of the project."""
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=PROJECT_FOLDER,
        env={**os.environ, "GRPO_MODAL_GPU": "none", "COLUMNS": "200", "NO_COLOR": "1", **(settings or {})},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.fixture(scope="module")
def server() -> Iterator[ModalServer]:
    """One server for all tests here, with the app deployed: containers take seconds to import torch."""
    with use(ModalServer()) as server:
        deployed = command("modal", "deploy", "app.py")
        assert deployed.returncode == 0, deployed.stderr
        yield server


def function(name: str) -> Any:
    return modal.Function.from_name("pytest-grpo", name)


def data(server: ModalServer) -> Path:
    return server.volume("pytest-grpo-data")


@pytest.fixture(scope="module")
def demo(server: ModalServer, model_folder: str) -> dict[str, Any]:
    """What asks for version 3 of a run that has it."""
    return trained("demo", model_folder)


def trained(run: str, model_folder: str) -> dict[str, Any]:
    """Train ``run`` for three steps; what asks for its last version."""
    summary = function("train_grpo").remote(steps=3, run=run, preset=model_folder, **SMALL)
    assert summary["num_steps"] == 3
    return {"run": run, "version": 3, "preset": model_folder, **SMALL}


@pytest.mark.slow
def test_a_run_from_the_command_line_trains_for_three_steps(server: ModalServer, model_folder: str):
    ran = command(
        "modal", "run", "app.py::train_grpo", "--detach", "--steps", "3", "--run", "typed", "--preset", model_folder,
        "--groups", "4", "--samples", "2",
    )  # fmt: skip

    assert ran.returncode == 0, ran.stderr + ran.stdout
    for step in (1, 2, 3):
        assert f"step {step}: reward" in ran.stdout
    assert "note: this run is not detached" in ran.stdout
    summary = next(json.loads(line) for line in ran.stdout.splitlines() if line.startswith('{"run"'))
    assert summary["num_steps"] == 3
    assert (data(server) / "checkpoints/typed/step-000003").is_dir()
    events = (data(server) / "events/typed.jsonl").read_text()
    assert {"train_step", "gpu_stats"} <= {json.loads(line)["kind"] for line in events.splitlines()}


@pytest.mark.slow
def test_workers_play_with_one_engine_that_looks_at_the_volume_once_a_call(server: ModalServer, model_folder: str):
    ask = trained("cold", model_folder)  # no engine has loaded it yet
    first = function("run_rollout").remote(**ask)
    num_reloads = server.num_reloads
    again = function("run_rollout").remote(**ask)

    assert (first["policy_version"], first["adapter_cache_hit"], first["num_completions"]) == (3, False, 8)
    assert again["adapter_cache_hit"] is True
    assert server.num_reloads == num_reloads + 1  # the run may have started again since
    server.wait_until(lambda: "Adapter already cached locally: cold-v000003" in server.output())
    logs = command("modal", "function", "logs", "pytest-grpo/run_rollout").stdout
    assert "Adapter already cached locally: cold-v000003" in logs
    assert again["reward_mean"] == first["reward_mean"]

    parts = [function("run_rollout").spawn(**ask, first_group=part, num_groups=2, with_batch=True) for part in (0, 2)]
    whole = function("run_rollout").remote(**ask, with_batch=True)["batch"]
    groups = [group for part in parts for group in part.get(timeout=120)["batch"].groups]
    assert [group.group_id for group in groups] == [group.group_id for group in whole.groups]
    for mine, other in zip(groups, whole.groups, strict=True):
        for left, right in zip(mine.trajectories, other.trajectories, strict=True):
            assert left.turns[0].completion_ids.tolist() == right.turns[0].completion_ids.tolist()


@pytest.mark.slow
def test_a_lost_engine_is_started_again_and_its_requests_are_asked_again(server: ModalServer, demo: Mapping[str, Any]):
    num_asked = server.num_inputs("InferenceEngine.*")
    before = function("run_rollout").remote(**demo)
    num_started, num_calls = server.num_started, server.num_inputs("InferenceEngine.*") - num_asked
    server.kill_on("InferenceEngine.*", on_input=2)

    after = function("run_rollout").remote(**demo)

    played = ("reward_mean", "num_completion_tokens")
    assert server.num_started == num_started + 1
    assert [after[name] for name in played] == [before[name] for name in played]
    assert server.num_inputs("InferenceEngine.*") == num_asked + 2 * num_calls  # Modal itself ran what was lost again


@pytest.mark.slow
def test_an_engine_that_modal_gives_up_is_asked_again_once(server: ModalServer, demo: Mapping[str, Any]):
    num_asked = server.num_inputs("InferenceEngine.*")
    before = function("run_rollout").remote(**demo)
    num_calls = server.num_inputs("InferenceEngine.*") - num_asked
    server.kill_on("InferenceEngine.*", on_input=2, times=4)

    after = function("run_rollout").remote(**demo)

    played = ("reward_mean", "num_completion_tokens")
    assert [after[name] for name in played] == [before[name] for name in played]
    assert 1 <= after["num_asked_again"] <= num_calls
    assert server.num_inputs("InferenceEngine.*") == num_asked + 2 * num_calls + after["num_asked_again"]


@pytest.mark.slow
def test_a_failed_worker_costs_its_own_groups(server: ModalServer, model_folder: str):
    server.kill_on("run_rollout", on_input=1, times=-1, same_input=True)
    summary = function("train_grpo").remote(steps=2, run="fleet", preset=model_folder, workers=2, **SMALL)

    assert summary["num_steps"] == 2
    server.wait_until(lambda: "goes on without groups" in server.output())
    lines = [json.loads(line) for line in (data(server) / "events/fleet.jsonl").read_text().splitlines()]
    rollouts = [line["num_completions"] for line in lines if line["kind"] == "rollout"]
    assert sorted(rollouts) == [4, 8]  # one batch lost the groups of one worker, and no other did
    threads = check_identity(lines)
    assert {process for process, _ in threads} == {"trainer-0", "worker-0", "worker-1"}
    assert sorted(map(len, check_traces(lines))) == [2, 3]  # the trainer and its workers, without the one that failed
    played = [event for process in ("worker-0", "worker-1") for event in threads[process, "rollout"]]
    assert len(played) == 3
    assert all(event["wait_engine_s"] > 0 for event in played)
    assert sum(event["wait_workers_s"] for event in threads["trainer-0", "rollout"]) > 0


@pytest.mark.slow
def test_one_call_trains_a_run_and_goes_on_when_its_container_is_lost(server: ModalServer, model_folder: str):
    ask = {"run": "long", "preset": model_folder, "steps": 60, "checkpoint_every": 1, **SMALL}
    before = server.output().count("step 3: ")
    call = function("train_grpo").spawn(**ask)
    server.wait_until(lambda: server.output().count("step 3: ") > before, timeout_s=120)

    with pytest.raises(ConfigError, match=f"'long' is being trained by the call {call.object_id} now"):
        function("train_grpo").remote(**ask)
    assert server.kill("train_grpo", "preempted") > 0
    summary = call.get(timeout=200)

    assert 0 < summary["num_steps"] < 60  # those that were left
    assert (data(server) / "checkpoints/long/step-000060").is_dir()
    with pytest.raises(ConfigError, match="'long' has checkpoints"):
        function("train_grpo").remote(**ask)


def steps_of(server: ModalServer, run: str) -> list[int]:
    """The steps in the events of ``run``, in order, as often as they were made."""
    lines = (data(server) / f"events/{run}.jsonl").read_text().splitlines()
    return [event["step"] for event in map(json.loads, lines) if event["kind"] == "train_step"]


@pytest.mark.slow
def test_a_preempted_trainer_saves_what_it_did_and_is_started_again(server: ModalServer, model_folder: str):
    ask = {"run": "preempted", "preset": model_folder, "steps": 30, "checkpoint_every": 1000, **SMALL}
    before = server.output().count("step 4: ")
    call = function("train_grpo").spawn(**ask)
    server.wait_until(lambda: server.output().count("step 4: ") > before, timeout_s=120)
    assert server.kill("train_grpo", "preempted") > 0
    summary = call.get(timeout=200)

    assert 0 < summary["num_steps"] < 30
    assert steps_of(server, "preempted") == list(range(1, 31))  # none is made twice: each was saved


@pytest.mark.slow
def test_warm_containers_see_what_others_committed(server: ModalServer, model_folder: str):
    """Two containers that ran before, and whose views of the volume are old."""
    server.kill("train_grpo")
    warm = [function("train_grpo").spawn(run=f"warm{n}", preset=model_folder, steps=2, **SMALL) for n in range(2)]
    for call in warm:
        call.get(timeout=200)
    before = server.output().count("step 3: ")
    busy = function("train_grpo").spawn(run="busy", preset=model_folder, steps=500, **SMALL)
    server.wait_until(lambda: server.output().count("step 3: ") > before, timeout_s=120)
    num_started = server.num_started

    with pytest.raises(ConfigError, match=f"'busy' is being trained by the call {busy.object_id} now"):
        function("train_grpo").remote(run="busy", preset=model_folder, steps=500, **SMALL)
    for run in ("warm0", "warm1"):  # one of them was trained in the other container
        again = function("train_grpo").remote(run=run, resume=True, steps=4)
        assert again["num_steps"] == 2
        assert steps_of(server, run) == [1, 2, 3, 4]
    assert server.num_started == num_started
    busy.cancel(terminate_containers=True)


@pytest.mark.slow
def test_modules_of_ones_own_are_sent(server: ModalServer, model_folder: str, tmp_path: Path):
    (tmp_path / "far_away.py").write_text(
        "from grpo_core.environments.arithmetic import ArithmeticEnvironment\n"
        "class Chatty(ArithmeticEnvironment):\n"
        "    def __init__(self, config):\n"
        "        super().__init__()\n"
        "        print('from far away', flush=True)\n"
    )
    flags = ["--run", "far", "--model", model_folder, "--groups", "2", "--samples", "2"]
    for more in (
        [*flags, "--environment", "far_away:Chatty", "--steps", "1"],
        ["--run", "far", "--resume", "--steps", "2"],  # it keeps what was sent for it
        ["--run", "far", "--resume", "--steps", "3", "--workers", "2"],
    ):
        ran = command("grpo_core.cli", "train", "--modal", *more, settings={"PYTHONPATH": str(tmp_path)})
        assert ran.returncode == 0, ran.stderr + ran.stdout

    assert "from far away" in server.output()
    assert steps_of(server, "far") == [1, 2, 3]
    ran = command("grpo_core.cli", "train", "--modal", "--environment", "no_where:Game")
    assert ran.returncode == 2
    assert "no module 'no_where' here, so it cannot be sent" in ran.stderr


@pytest.mark.slow
def test_engines_answer_and_snapshots_are_kept(server: ModalServer, demo: Mapping[str, Any], model_folder: str):
    engine = modal.Cls.from_name("pytest-grpo", "InferenceEngine")(preset=model_folder, run=demo["run"], engine="torch")
    start = time.monotonic()
    calls = [engine.generate.spawn(["Q: 1 + 2 =\nA:"], version=version, max_tokens=4) for version in (3, 2, 0)]
    assert [call.get(timeout=120)[0]["policy_version"] for call in calls] == [3, 2, 0]
    assert time.monotonic() - start < 120

    path = function("persist_profile_snapshot").remote("ci", {"loss_forward_ms": 1.5})
    assert path.endswith("/data/benchmarks/ci.json")
    assert json.loads((data(server) / "benchmarks/ci.json").read_text())["loss_forward_ms"] == 1.5


@pytest.mark.slow
def test_grpo_profiles_on_modal(server: ModalServer, model_folder: str):
    ran = command(
        "grpo_core.cli", "profile", "--modal", "--target", "trainer", "--steps", "1", "--groups", "1", "--samples", "1",
        "--horizon", "1", "--no-warmup", "--profile-name", "local-trainer-profile", "--environment", "arithmetic",
        "--model", model_folder,
    )  # fmt: skip

    assert ran.returncode == 0, ran.stderr + ran.stdout
    assert "/traces/local-trainer-profile" in ran.stdout
    assert "/data/benchmarks/local-trainer-profile.json" in ran.stdout
    assert (data(server) / "benchmarks/local-trainer-profile.json").is_file()
    assert any((server.volume("pytest-grpo-traces") / "local-trainer-profile").iterdir())


@pytest.mark.slow
def test_grpo_benchmarks_on_modal(server: ModalServer, model_folder: str):
    ran = command(
        "grpo_core.cli", "benchmark", "--modal", "--smoke", "--profile", "rollout", "--no-warmup",
        "--profile-name", "rollout-snapshot", "--environment", "arithmetic", "--model", model_folder,
    )  # fmt: skip

    assert ran.returncode == 0, ran.stderr + ran.stdout
    assert "fetch it: modal volume get pytest-grpo-data benchmarks/rollout-snapshot.json" in ran.stdout
    kept = json.loads((data(server) / "benchmarks/rollout-snapshot.json").read_text())
    assert kept["timing/tokens_per_second"] > 0
    fetched = command("modal", "volume", "get", "pytest-grpo-data", "benchmarks/rollout-snapshot.json", "-")
    assert json.loads(fetched.stdout[: fetched.stdout.rindex("}") + 1]) == kept


@pytest.mark.slow
def test_ctrl_c_ends_a_run_of_this_terminal(server: ModalServer, model_folder: str):
    before = server.output().count("step 3: ")
    others = server.num_containers("train_grpo")  # of the deployed app, which wait for more to do
    client = subprocess.Popen(
        [sys.executable, "-m", "grpo_core.cli", "train", "--modal", "--run", "ended", "--steps", "500", "--groups", "2",
         "--samples", "2", "--model", model_folder, "--set", "schedule.checkpoint_every_steps=1"],
        cwd=PROJECT_FOLDER, env={**os.environ, "GRPO_MODAL_GPU": "none"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    server.wait_until(lambda: server.output().count("step 3: ") > before, timeout_s=120)

    client.send_signal(signal.SIGINT)

    output, _ = client.communicate(timeout=60)
    assert client.returncode == 130, output
    server.wait_until(lambda: server.num_containers("train_grpo") <= others)
    assert any((data(server) / "checkpoints/ended").iterdir())


def test_what_the_app_asks_of_modal(server: ModalServer):
    server.set_secret("wandb-secret", WANDB_API_KEY="key")
    settings = {"GRPO_MODAL_GPU": "H100:2", "GRPO_MODAL_SECRETS": "wandb-secret"}
    deployed = command("modal", "deploy", "--name", "wide", "app.py", settings=settings)
    assert deployed.returncode == 0, deployed.stderr

    def asked(name: str) -> tuple[str, int, int]:
        definition = server.definition("wide", name)
        gpu = definition.resources.gpu_config
        return f"{gpu.gpu_type}:{gpu.count}", definition.timeout_secs, definition.retry_policy.retries

    assert asked("train_grpo") == ("H100:2", 24 * 3600, 0)
    assert asked("run_rollout") == (":0", 3600, 1)
    assert asked("InferenceEngine.*") == ("H100:2", 3600, 0)
    assert asked("persist_profile_snapshot")[0] == ":0"
    assert asked("run_pytest") == asked("record_pytest") == asked("measure") == ("H100:2", 3600, 0)
    assert server.definition("wide", "run_pytest").single_use_containers
    assert server.definition("wide", "InferenceEngine.*").max_concurrent_inputs == 64
    for name in ("run_pytest", "record_pytest"):  # a phase need not build the model, and writes nothing else
        assert [mount.mount_path for mount in server.definition("wide", name).volume_mounts] == ["/models"]
    for name in ("train_grpo", "run_rollout", "InferenceEngine.*", "measure"):
        definition = server.definition("wide", name)
        assert [mount.mount_path for mount in definition.volume_mounts] == ["/data", "/traces", "/models"]
        assert list(definition.secret_ids) == ["st-wandb-secret"]


@pytest.mark.slow
def test_grpo_trains_on_modal(server: ModalServer, model_folder: str):
    ran = command(
        "grpo_core.cli", "train", "--modal", "--run", "cli", "--steps", "2", "--groups", "2", "--samples", "2",
        "--model", model_folder,
    )  # fmt: skip

    assert ran.returncode == 0, ran.stderr + ran.stdout
    assert "step 2: reward" in ran.stdout
    assert (data(server) / "checkpoints/cli/step-000002").is_dir()


@pytest.mark.slow
def test_expired_credentials_are_one_line(server: ModalServer):
    server.faults.refuses_credentials = True
    try:
        ran = command("grpo_core.cli", "benchmark", "--modal", "--smoke")
    finally:
        server.faults.refuses_credentials = False

    assert ran.returncode == 2
    assert ran.stderr.startswith(
        "grpo: error: --modal: Token validation failed: the token has expired; run 'modal token"
    )
    assert ran.stderr.count("\n") == 1
