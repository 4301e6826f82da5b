"""No credential is in what a session writes: page, rows, stored results, summary."""

from __future__ import annotations

from pathlib import Path

import pytest

SECRET = "s3cr3tw0rd"
VARIABLES = ("AXIOM_TOKEN", "WANDB_API_KEY", "HF_TOKEN", "MODAL_TOKEN_SECRET", "UV_INDEX_URL", "GITHUB_TOKEN")
SUITE = """
import pytest
from pytest_grpo.agreement import nothing_to_check

@pytest.mark.phase2
def test_speed(grpo_arms):
    def at(speed):
        return lambda: {"tokens": speed, "seconds": 1.0}

    fast, slow = grpo_arms(agree=nothing_to_check, fast=at(300), slow=at(100))
    assert fast.tokens_per_second >= 1.1 * slow.tokens_per_second
"""


def test_a_session_leaves_no_credential(
    project: pytest.Pytester, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, f"https://user:{SECRET}@host.invalid")
    summary = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    project.makepyfile(test_suite=SUITE)
    outputs = [
        "--grpo-html",
        "page.html",
        "--grpo-json",
        "rows.json",
        "--grpo-save",
        "before",
        "--junitxml",
        "junit.xml",
    ]
    ran = project.runpytest("--phase", "2", *outputs)
    ran.assert_outcomes(passed=1)

    assert SECRET not in ran.stdout.str() + ran.stderr.str()
    written = [path for top in (project.path, tmp_path) for path in top.rglob("*") if path.is_file()]
    assert {"page.html", "rows.json", "before.json", "junit.xml", "summary.md"} <= {path.name for path in written}
    assert [str(path) for path in written if SECRET.encode() in path.read_bytes()] == []
