"""Ctrl-C while a phase trains is pytest's."""

from __future__ import annotations

import pytest

SUITE = """
import os
import signal

import pytest

from pytest_grpo.bench.checks.whole_runs import train_in_test
from grpo_core.config import build_config
from grpo_core.home import Home
from grpo_core.schedule.stack import build_stack
from grpo_core.telemetry.events import Telemetry


@pytest.mark.phase4
def test_counts(grpo_gate):
    grpo_gate.check("steps_missing", 0)


@pytest.mark.phase4
def test_trains(tmp_path):
    rollout = {"num_groups": 1, "group_size": 2, "max_completion_tokens": 4}
    config = build_config(
        {"run": "run", "model": {"name": os.environ["MODEL"], "device": "cpu"}, "environment": {"name": "arithmetic"},
         "rollout": rollout, "schedule": {"num_steps": 3}}
    )
    with build_stack(config, Home(data=tmp_path / "data", traces=tmp_path / "traces")) as stack:
        step = stack.trainer.step

        def interrupted(batch):
            os.kill(os.getpid(), signal.SIGINT)
            return step(batch)

        stack.trainer.step = interrupted
        train_in_test(stack, Telemetry("run", ()))


@pytest.mark.phase4
def test_is_not_reached():
    raise AssertionError
"""


@pytest.mark.slow
def test_ctrl_c_in_the_loop_ends_the_session_and_shows_the_verdicts(
    pytester: pytest.Pytester, model_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop's own handler would end the run alone, and pytest would go on."""
    pytester.makefile(".toml", limits="[cpu.phase4]\nsteps_missing = { equals = 0 }\n")
    pytester.makeini("[pytest]\ngrpo_control = false\ngrpo_thresholds = limits.toml\n")
    pytester.makepyfile(test_suite=SUITE)

    monkeypatch.setenv("MODEL", model_folder)
    monkeypatch.setenv("GRPO_HOME", str(pytester.path / "home"))

    result = pytester.runpytest_subprocess("--phase", "4")

    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(["*4*steps_missing*pass*", "*KeyboardInterrupt*"])
    assert "test_is_not_reached" not in result.stdout.str()
