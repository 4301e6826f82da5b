"""``grpo serve`` as a user starts and ends it."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from grpo_core.cli import main
from tests.grpo_core.commands.served import served

SHORT = ["--steps", "1", "--device", "cpu", "--groups", "4", "--samples", "4", "--run", "first"]


def first_answer(options: list[str], home: Path) -> tuple[str, str]:
    """The name of the model, and what it writes greedily. The server ends with Ctrl-C."""
    with served(["serve", "--port", "0", "--set", "model.device=cpu", *options], home) as printed:
        name, _, url = printed.readline().strip().rpartition(" at ")
        key = printed.readline().strip().removeprefix("API key: ")
        request = urllib.request.Request(
            f"{url.replace('0.0.0.0', '127.0.0.1')}/completions",
            json.dumps({"prompt": "1 + 1 =", "temperature": 0, "max_tokens": 3}).encode(),
        )
        if key != "any":
            with pytest.raises(urllib.error.HTTPError, match="401") as refused:
                urllib.request.urlopen(request, timeout=60)
            refused.value.close()
        request.add_header("Authorization", f"Bearer {key}")
        with urllib.request.urlopen(request, timeout=60) as answer:
            text = json.loads(answer.read())["choices"][0]["text"]
    return name, text


@pytest.mark.slow
def test_a_checkpoint_is_served_until_ctrl_c(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GRPO_HOME", str(tmp_path))
    assert main(["train", *SHORT, "--set", "training.learning_rate=1.0"]) == 0  # far from the model that it began with
    name, text = first_answer(["first", "--step", "1", "--record", str(tmp_path / "said.jsonl")], tmp_path)
    assert name == "first-step-1"
    (line,) = (tmp_path / "said.jsonl").read_text().splitlines()
    assert json.loads(line)["policy_version"] == 1
    base_name, base_text = first_answer(["--model", "adder", "--host", "0.0.0.0"], tmp_path)
    assert base_name == "adder"
    assert base_text != text


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ([], "give a RUN, as grpo runs lists it, or --model NAME"),
        (["first", "--model", "tiny"], "give a RUN, as grpo runs lists it, or --model NAME"),
        (["first"], "run 'first' has no checkpoint; runs with checkpoints: none"),
        (
            ["--model", "tiny", "--step", "3"],
            "--step and --best choose a checkpoint of a RUN; leave them out with --model",
        ),
        (["--model", "tiny", "--port", "70000"], "--port 70000: give 0 to 65535"),
        (["--model", "tiny", "--host", "192.0.2.1"], "give an address of this machine"),
        (["--model", "tiny", "--record", "/nowhere/said.jsonl"], "--record /nowhere/said.jsonl: No such file"),
        (["--model", "no-such-model-here"], "no-such-model-here"),
    ],
)
def test_a_mistake_is_one_line(
    options: list[str], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GRPO_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(["serve", "--port", "0", *options] if "--port" not in options else ["serve", *options]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert line in error
