"""What a measurement leaves behind, and what it leaves alone."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import pytest

from grpo_core.cli import main

SIZES = [
    "--device", "cpu", "--environment", "arithmetic", "--steps", "2", "--groups", "1", "--samples", "2",
    "--set", "rollout.max_completion_tokens=4",
]  # fmt: skip


def contents(folder: Path) -> Mapping[str, str]:
    """The files below ``folder``, by path, with their checksums."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


@pytest.mark.parametrize(
    "command",
    [
        ["profile", "--target", "trainer", "--no-warmup"],
        pytest.param(["profile", "--target", "rollout"], marks=pytest.mark.slow),
        ["benchmark", "--profile", "e2e", "--no-warmup"],
    ],
)
def test_a_measurement_leaves_the_run_of_its_name_alone(
    command: list[str], model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRPO_HOME", str(tmp_path))
    sizes = ["--model", str(model_folder), *SIZES]
    assert main(["train", "--run", "kept", *sizes]) == 0
    waiting = tmp_path / "data/buffer/kept/batch-000002.arrow"  # as after Ctrl-C with a lag
    waiting.write_bytes(b"a batch")
    before = contents(tmp_path / "data")
    assert any(name.startswith("adapters/objects/") for name in before)

    assert main([*command, "--profile-name", "kept", *sizes]) == 0

    after = contents(tmp_path / "data")
    assert {name: after.get(name) for name in before} == before
    new = {name for name in after if name not in before}
    assert new == {"benchmarks/kept.json", "measured/events/kept.jsonl", "measured/locks/kept.lock"}
