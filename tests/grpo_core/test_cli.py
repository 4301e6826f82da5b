"""The command line: one line for what a user can mend, and flags that reach the configuration."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from grpo_core.cli import USER_ERROR_EXIT_CODE, main
from grpo_core.commands.options import add_config_flags, config_from_flags


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["train", "--set", "rollout.group_sise=4"], "rollout.group_sise"),
        (["train", "--samples", "1"], "group_size 1"),
        (["train", "--policy-lag", "-1"], "max_policy_lag_steps"),
        (["train", "--preset", "huge"], "'huge'"),
        (
            ["train", "--engine", "vlm"],
            "rollout.engine: 'vlm' is not allowed: Input should be 'torch', 'vllm' or",
        ),
        (["train", "--environment", "chess"], "'chess'"),
        (["train", "--resume"], "--run"),
        (["train", "--modal", "--processes", "4"], "GRPO_MODAL_GPU=H100:4"),
        (["train", "--workers", "4"], "--modal"),
        (["profile", "--profile-name", "a/b"], "'a/b'"),
        (["benchmark", "--buffer-depth", "3", "--policy-lag", "1"], "buffer_depth 3"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    arguments: list[str],
    named: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("GRPO_HOME", str(tmp_path / "home"))
    assert main(arguments) == USER_ERROR_EXIT_CODE
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("grpo: error: ")
    assert named in line
    assert not (tmp_path / "home").exists()


def test_flags_come_before_settings_before_the_file_before_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("[rollout]\nnum_groups = 3\ngroup_size = 3\nseed = 3\n", encoding="utf-8")
    parser = argparse.ArgumentParser()
    add_config_flags(parser)
    flags = parser.parse_args(
        ["--config", str(file), "--set", "rollout.group_size=4", "--set", "rollout.seed=4", "--seed", "5"]
    )
    defaults = {"rollout.num_groups": 2, "rollout.top_p": 0.5}
    rollout = config_from_flags(flags, defaults, "run").rollout
    assert (rollout.num_groups, rollout.group_size, rollout.seed, rollout.top_p) == (3, 4, 5, 0.5)
