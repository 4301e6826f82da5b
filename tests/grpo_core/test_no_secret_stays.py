"""No credential is in anything that a run leaves: files, output, messages, what services get."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from grpo_core.cli import main
from tests.grpo_core.telemetry.ingest_server import IngestServer, running_server

SECRET = "s3cr3tw0rd"
ENVIRONMENT: Mapping[str, str] = {
    "AXIOM_TOKEN": f"xaat-{SECRET}",
    "AXIOM_DATASET": "grpo-test",
    "AXIOM_ORG_ID": f"org-{SECRET}",
    "WANDB_API_KEY": f"{SECRET:k<40}",
    "WANDB_MODE": "offline",
    "HF_TOKEN": f"hf_{SECRET}",
    "MODAL_TOKEN_ID": f"ak-{SECRET}",
    "MODAL_TOKEN_SECRET": f"as-{SECRET}",
    "UV_INDEX_URL": f"https://user:{SECRET}@index.invalid/simple",
}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[IngestServer]:
    """A service that refuses our token, and a secret in every variable that has one."""
    with running_server() as server:
        url = server.url.replace("http://", f"http://user:{SECRET}@")
        for name, value in {**ENVIRONMENT, "AXIOM_URL": url, "NO_PROXY": "127.0.0.1"}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("GRPO_HOME", str(tmp_path / "home"))
        yield server


@pytest.mark.slow
@pytest.mark.parametrize("answer", [None, 403, 500, "<html>"])
def test_a_run_leaves_no_credential(
    answer: int | str | None,
    server: IngestServer,
    model_folder: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    import wandb

    caplog.set_level(logging.DEBUG)
    server.answer = answer
    sizes = ["--groups", "1", "--samples", "2", "--device", "cpu", "--set", "rollout.max_completion_tokens=4"]
    arguments = ["--model", str(model_folder), "--environment", "arithmetic", *sizes]
    assert main(["train", "--run", "x", "--steps", "2", "--verbose", *arguments]) == 0
    assert main(["send", "--run", "x"]) in (0, 1)
    assert main(["profile", "--steps", "1", "--target", "rollout", *arguments]) == 0
    wandb.teardown()

    shown = capfd.readouterr()
    assert SECRET not in shown.out + shown.err
    assert SECRET not in caplog.text
    assert SECRET not in json.dumps(server.events)
    found = [str(path) for path in tmp_path.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert found == []
    assert len(list((tmp_path / "home").rglob("*"))) > 20


@pytest.mark.parametrize(
    "changed",
    [{"AXIOM_DATASET": ""}, {"AXIOM_URL": f"user:{SECRET}@axiom.invalid"}, {"WANDB_MODE": "sideways"}],
)
def test_a_bad_setting_is_named_without_its_secrets(
    changed: Mapping[str, str],
    server: IngestServer,
    model_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for name, value in changed.items():
        monkeypatch.setenv(name, value)
    assert main(["train", "--run", "x", "--model", str(model_folder), "--steps", "1"]) == 2

    (line,) = capfd.readouterr().err.splitlines()
    assert SECRET not in line
    assert next(iter(changed)) in line
