"""Advice follows from the ledger by numbers that are worked out here; an unhealthy run gets none."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from grpo_core.cli import USER_ERROR_EXIT_CODE, main
from grpo_core.explain.advice import advise
from grpo_core.explain.health import complaints
from grpo_core.explain.rules import RULES, rule_for
from grpo_core.explain.run_record import RunRecord, read_run
from grpo_core.home import Home
from grpo_core.ledger.spans import SPANS
from tests.grpo_core.explain.healthy import HEALTHY

TOKENS = {"num_sampled_tokens": 30, "num_trained_tokens": 20, "num_forced_tokens": 10}
NO_TOKENS = dict.fromkeys([f"num_{part}_tokens" for part in ("masked", "dropped", "stale", "replaced", "preempted")], 0)

TRAIN = {"wait.batch": 6.2, "train.forward": 1.0, "train.backward": 2.5, "publish": 0.3}
ROLLOUT = {"sample.decode": 4.0, "sample.prefill": 2.0, "wait.environment": 0.2, "wait.room": 3.8}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("GRPO_HOME", str(tmp_path))
    return Home(tmp_path / "data", tmp_path / "traces")


def ledger(step: int, thread: str, seconds: Mapping[str, float]) -> dict[str, Any]:
    columns = {span.column: seconds.get(span.name, 0.0) for span in SPANS}
    other_s = seconds.get("other", 0.0)
    return {
        "kind": "ledger", "step": step, "process": "trainer-0", "thread": thread, "other_s": other_s,
        "wall_s": sum(seconds.values()), **columns,
    }  # fmt: skip


def write_run(
    home: Home,
    *,
    lag: int = 0,
    train: Mapping[str, float] = TRAIN,
    rollout: Mapping[str, float] = ROLLOUT,
    changes: Mapping[str, Any] | None = None,
    tokens: Mapping[str, int] = TOKENS,
    num_failed: int = 0,
) -> RunRecord:
    """Three steps, the first of which is cold and takes ten times as long."""
    events: list[dict[str, Any]] = [{"kind": "run_started", "max_policy_lag_steps": lag}]
    for step in (1, 2, 3):
        slow = 10.0 if step == 1 else 1.0
        events += [
            {"kind": "rollout", "num_failed_episodes": num_failed, "num_trajectories": 8},
            ledger(step, "rollout", {name: slow * seconds for name, seconds in rollout.items()}),
            {"kind": "train_step", "step": step, **HEALTHY, **(changes or {})},
            {"kind": "token_ledger", "step": step, **NO_TOKENS, **tokens},
            ledger(step, "train", {name: slow * seconds for name, seconds in train.items()}),
        ]
    events.append(ledger(3, "train", {"wait.end": 50.0}))  # after the last step: no part of one
    home.events.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"run": "run", "time": 0.0, **event}) for event in events]
    (home.events / "run.jsonl").write_text("\n".join(lines) + '\n{"kind": "train_st')  # torn: it is being written
    return read_run(home, "run")


def test_the_three_largest_shares_come_with_their_bounds(home: Home) -> None:
    """Taking turns, ten seconds: overlapped they would take as long as rollouts alone, 6.2 s."""
    found = advise(write_run(home), {"schedule.max_policy_lag_steps": 0})

    assert [(advice.span, round(advice.share, 2)) for advice in found] == [
        ("wait.batch", 0.62),
        ("sample.decode", 0.4),
        ("train.backward", 0.25),
    ]
    assert found[0].bound == pytest.approx(10 / 6.2)
    assert found[1].bound == pytest.approx(10 / 6.0)
    assert found[2].bound == pytest.approx(10 / 7.5)
    assert [advice.rule.phase for advice in found if advice.rule] == [4, 2, 3]
    assert found[0].rule is not None
    assert found[0].rule.setting == "schedule.max_policy_lag_steps=1"


def test_with_overlap_the_slower_side_is_the_step(home: Home) -> None:
    """6.2 s of rollouts hide 3.8 s of training: a trainer that never waits gains 1.6, faster training nothing."""
    train = {"wait.batch": 2.4, "train.backward": 3.8}
    rollout = {"sample.decode": 6.2}
    found = {advice.span: advice for advice in advise(write_run(home, lag=1, train=train, rollout=rollout), {})}

    assert found["wait.batch"].bound == pytest.approx(6.2 / 3.8)
    assert found["sample.decode"].bound == pytest.approx(6.2 / 3.8)
    assert found["train.backward"].bound == 1.0


def test_a_rule_that_the_run_has_is_not_given_again() -> None:
    first = rule_for("train", "wait.batch", {"schedule.max_policy_lag_steps": 0})
    second = rule_for("train", "wait.batch", {"schedule.max_policy_lag_steps": 1})
    assert first is not None
    assert second is not None
    assert first.setting != second.setting
    assert rule_for("rollout", "sample.prefill", {"environment.compact_prompts": True}) is None


def test_every_rule_names_a_span_a_phase_and_its_source() -> None:
    names = {span.name for span in SPANS}
    for rule in RULES:
        assert rule.span in names
        assert rule.thread in ("train", "rollout")
        assert rule.phase in range(7)
        assert rule.source
        assert not rule.has({}) or rule.setting.startswith("training.gradient_checkpointing")


def test_rules_name_settings_that_exist() -> None:
    from grpo_core.config import build_config
    from grpo_core.config.values import flattened

    known = flattened(build_config({"run": "run"}).model_dump(mode="json"))
    for rule in RULES:
        key = next((word for word in rule.setting.replace("=", " ").split() if "." in word), None)
        assert key is None or key.rstrip(",:") in known, rule.setting


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"is_skipped": True}, "3 of 3 steps were skipped, the first one is step 1"),
        ({"advantage_abs_mean": 0.0}, "nothing is learned"),
        ({"mismatch_kl": 0.5}, "sampler and trainer disagree by 0.5 nats"),
        ({"policy_lag_steps": 2}, "step 1 trained on a batch 2 steps old, more than 0"),
        ({"num_forward_passes": 4}, "step 1 ran 4 forward passes for 2 micro-batches"),
    ],
)
def test_an_unhealthy_run_gets_no_advice(
    changes: Mapping[str, Any], says: str, home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(home, changes=changes)
    assert main(["explain", "run"]) == 1
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first.startswith("not healthy: ")
    assert says in first
    assert last == "no advice on speed before this is fixed"


def test_lost_tokens_and_failing_episodes_are_unhealthy(home: Home) -> None:
    (lost,) = complaints(write_run(home, tokens={**TOKENS, "num_trained_tokens": 19}))
    assert lost.what == "step 1: 1 sampled tokens are lost"
    (failing,) = complaints(write_run(home, num_failed=4))
    assert failing.what == "12 attempts at episodes failed, 24 trajectories were played"
    assert complaints(write_run(home)) == []


def test_the_command_shows_share_bound_setting_and_phase(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(home)
    assert main(["explain", "run"]) == 0
    headline, _, *rows = capsys.readouterr().out.splitlines()
    assert headline == "run run: 10.00 s per step, 360 steps per hour (2 warm steps)"
    table = "\n".join(rows)
    for text in ("62%", "40%", "25%", "1.6 x", "grpo bench --phase 4"):
        assert text in table
    assert main(["explain", "run", "--shares", "1"]) == 0
    assert "40%" not in capsys.readouterr().out


@pytest.mark.parametrize("number", ["0", "-1", "x"])
def test_a_number_of_shares_is_checked(number: str, home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(home)
    with pytest.raises(SystemExit, match=str(USER_ERROR_EXIT_CODE)):
        main(["explain", "run", "--shares", number])
    assert "--shares" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("other", None, "run 'other': no events in"),
        ("../run", None, "RUN"),
        ("run", '{"kind": "run_started", "max_policy_lag_steps": 0}', "no step has finished"),
        (
            "run",
            '{"kind": "run_started", "max_policy_lag_steps": 0}\n{"kind": "train_step", "step": 1}',
            "its events have no ledger",
        ),
    ],
)
def test_what_cannot_be_explained_is_one_line(
    name: str, content: str | None, says: str, home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    home.events.mkdir(parents=True)
    if content is not None:
        (home.events / "run.jsonl").write_text(content + "\n")
    assert main(["explain", name]) == USER_ERROR_EXIT_CODE
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1
