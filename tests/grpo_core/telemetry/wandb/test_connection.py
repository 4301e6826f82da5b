from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from grpo_core.config import TelemetryConfig, build_config
from grpo_core.errors import ConfigError, CredentialsError
from grpo_core.home import Home
from grpo_core.telemetry import Event, open_telemetry
from grpo_core.telemetry.columns import FIELDS
from grpo_core.telemetry.wandb.connection import choose_mode, run_id_of
from grpo_core.telemetry.wandb.names import AXES, NAMES, SECONDS, STEP, SUMMARIES, named_metrics
from pytest_grpo.logs.readers.wandb_frames import messages
from tests.loopback import serving


@pytest.fixture
def wandb_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The paths that W&B asks a server of its own for."""
    paths: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            paths.append(self.path)
            self.send_error(403)

        do_GET = do_POST

        def log_message(self, format: str, *args: object) -> None:
            pass

    with serving(HTTPServer(("127.0.0.1", 0), Handler)) as server:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
        yield paths


@pytest.fixture
def wandb_service() -> Iterator[None]:
    """Ends the service process that wandb starts on first use, also when a test fails before it does."""
    yield
    import wandb

    wandb.teardown()


@pytest.mark.slow
@pytest.mark.usefixtures("wandb_service")
def test_an_offline_run_holds_the_metrics_and_touches_no_network(
    wandb_server: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    config = build_config({"run": "my-run", "telemetry": {"wandb": "offline", "axiom": "off"}})
    with open_telemetry(config, Home(data=tmp_path / "data", traces=tmp_path / "traces")) as telemetry:
        telemetry.emit("train_step", step=1, loss_forward_ms=12.5, policy_lag_steps=1, reward_mean=float("nan"))
        telemetry.emit("rollout", tokens_per_second=123.0)
        telemetry.emit("gpu_stats", source="nvml", device_index=3, utilization_percent=50.0, power_watts=None)
        telemetry.emit("gpu_stats", source="host", device_index=0, utilization_percent=25.0)

    # wandb's own loggers write at "info" once an earlier test of the process has opened a run.
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    import wandb

    wandb.teardown()  # its service may write until it ends
    (file,) = (tmp_path / "data/wandb").glob("offline-run-*/run-*.wandb")
    log = file.read_bytes()
    for name in (
        "my-run",
        "lora_rank",
        "schedule/step",
        "timing/loss_forward_ms",
        "schedule/policy_lag_steps",
        "timing/tokens_per_second",
        "gpu/3/utilization_percent",
        "host/utilization_percent",
    ):
        assert name.encode() in log
    assert b"gpu/3/power_watts" not in log
    assert b"gpu/0" not in log
    assert wandb_server == []
    assert capfd.readouterr() == ("", "")


def records_in(folder: Path) -> list[Any]:
    """What the offline files of a home say, as W&B would read them."""
    from wandb.proto.wandb_internal_pb2 import Record  # pyright: ignore[reportAttributeAccessIssue]

    files = sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))
    return [Record.FromString(message) for file in files for message in messages(file.read_bytes())]


@pytest.mark.slow
@pytest.mark.usefixtures("wandb_service")
def test_the_offline_file_has_axes_summaries_event_times_and_one_run_for_two_processes(
    wandb_server: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    monkeypatch.delenv("WANDB_TAGS", raising=False)
    monkeypatch.delenv("WANDB_RUN_GROUP", raising=False)
    monkeypatch.setattr(time, "time", lambda: 1_800_000_000.0)
    config = build_config({"run": "my-run", "telemetry": {"wandb": "offline", "axiom": "off"}})
    home = Home(data=tmp_path / "data", traces=tmp_path / "traces")
    for step in (1, 2):
        with open_telemetry(config, home) as telemetry:
            telemetry.emit("train_step", step=step, reward_mean=0.5 * step, learning_rate=0.002)
            telemetry.emit("gpu_stats", source="host", device_index=0, utilization_percent=25.0)
        (home.checkpoints / "my-run" / f"step-{step:06d}").mkdir(parents=True)  # from now on it is resumed
    wandb.teardown()
    records = records_in(home.data)
    runs = [record.run for record in records if record.HasField("run")]
    assert {(run.run_id, run.display_name, run.run_group) for run in runs} == {(runs[0].run_id, "my-run", "arithmetic")}
    assert "torch" in runs[0].tags
    metrics = {
        record.metric.glob_name or record.metric.name: record.metric for record in records if record.HasField("metric")
    }
    for pattern, axis in AXES.items():
        assert metrics[pattern].step_metric == axis
    assert set(SUMMARIES) <= set(metrics)
    assert metrics["reward/mean"].summary.max
    assert metrics["timing/step_s"].summary.min
    rows = [
        {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.HasField("history")
    ]
    assert [row[STEP] for row in rows if "reward/mean" in row] == [1, 2]
    assert all(row["_timestamp"] == 1_800_000_000.0 for row in rows)
    assert all(SECONDS in row for row in rows if "host/utilization_percent" in row)
    assert {row["schedule/learning_rate"] for row in rows if "reward/mean" in row} == {0.002}
    assert wandb_server == []


def test_a_run_that_goes_on_has_the_same_id_and_a_new_one_another(tmp_path: Path) -> None:
    home = Home(data=tmp_path / "data", traces=tmp_path / "traces")
    first = run_id_of(home, "r", continues=False)
    assert run_id_of(home, "r", continues=True) == first
    assert run_id_of(home, "s", continues=True) != first
    assert run_id_of(home, "r", continues=False) != first
    (home.deliveries / "r.wandb-id.json").write_text('{"id": "../../etc"}')
    assert "/" not in run_id_of(home, "r", continues=True)


def test_the_axes_and_summaries_are_of_names_that_are_logged() -> None:
    every = {name.format(device="gpu/0", function="exact") for names in NAMES.values() for name in names.values()}
    assert set(SUMMARIES) <= every
    assert set(AXES.values()) <= every | {SECONDS}


def test_metrics_have_readable_names_and_finite_values() -> None:
    event = Event("rollout", 0.0, "r", "a-1", {"tokens_per_second": 5.0, "reward_mean": float("inf"), "unheard_of": 1})

    assert named_metrics(event.record()) == {"timing/tokens_per_second": 5.0}


def test_kinds_that_are_no_metrics_give_none() -> None:
    assert named_metrics(Event("snapshot", 0.0, "r", "a-1", {"path": "x"}).record()) == {}


def test_the_names_are_of_fields_that_exist_and_no_two_fields_share_one() -> None:
    for kind, names in NAMES.items():
        assert set(names) <= set(FIELDS[kind])
    every = [name for names in NAMES.values() for name in names.values()]
    assert len(every) == len(set(every))


@pytest.mark.parametrize(
    ("policy", "environment", "mode"),
    [
        ("auto", {}, None),
        ("auto", {"WANDB_API_KEY": "k"}, "online"),
        ("auto", {"WANDB_API_KEY": "k", "WANDB_MODE": "offline"}, "offline"),
        ("auto", {"WANDB_API_KEY": "k", "WANDB_MODE": "disabled"}, None),
        ("auto", {"WANDB_MODE": "offline"}, "offline"),
        ("offline", {"WANDB_API_KEY": "k"}, "offline"),
        ("off", {"WANDB_API_KEY": "k", "WANDB_MODE": "online"}, None),
    ],
)
def test_the_mode(policy: str, environment: dict[str, str], mode: str | None) -> None:
    assert choose_mode(TelemetryConfig.model_validate({"wandb": policy}), environment) == mode


def test_online_without_a_key_is_one_clear_line() -> None:
    with pytest.raises(CredentialsError, match="'online' without WANDB_API_KEY"):
        choose_mode(TelemetryConfig(), {"WANDB_MODE": "online"})


@pytest.mark.parametrize("policy", ["auto", "offline"])
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"WANDB_BASE_URL": "127.0.0.1:9"}, "WANDB_BASE_URL '127.0.0.1:9' is not a URL"),
        ({"WANDB_API_KEY": "secret\u20ac"}, "WANDB_API_KEY: character 7 of 7 is"),
        ({"WANDB_API_KEY": "secret\n"}, "WANDB_API_KEY: character 7 of 7 is a line end"),
    ],
)
def test_what_no_request_can_carry_is_one_clear_line(policy: str, setting: dict[str, str], message: str) -> None:
    with pytest.raises(CredentialsError, match=message) as caught:
        choose_mode(TelemetryConfig.model_validate({"wandb": policy}), {"WANDB_API_KEY": "k", **setting})

    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_an_unknown_mode_names_the_allowed_ones() -> None:
    with pytest.raises(ConfigError, match="WANDB_MODE 'sideways': only 'online', 'offline' and 'disabled'"):
        choose_mode(TelemetryConfig(), {"WANDB_MODE": "sideways"})


@pytest.mark.slow
@pytest.mark.usefixtures("wandb_service")
def test_what_was_said_is_a_table(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    home = Home(data=tmp_path / "data", traces=tmp_path / "traces")
    config = build_config({"run": "my-run", "telemetry": {"wandb": "offline", "axiom": "off"}})
    (home.samples / "my-run").mkdir(parents=True)
    table = pa.table({"prompt": ["what was asked"], "completion": ["what was said"], "reward": [0.5]})
    pq.write_table(table, home.samples / "my-run" / "step-000001.parquet")
    with open_telemetry(config, home) as telemetry:
        for step in (1, 2):  # the file of the second one was dropped
            telemetry.emit("samples", step=step, batch_index=step - 1, file=f"step-{step:06d}.parquet")
        telemetry.emit("evaluation", step=2, greedy_passed=0.75)

    import wandb

    wandb.teardown()
    tables = [path.read_text() for path in home.data.rglob("samples*.table.json")]
    assert len(tables) == 1
    assert "what was said" in tables[0]
