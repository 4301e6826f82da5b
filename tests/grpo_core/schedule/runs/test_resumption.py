"""Which configuration a run goes on with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from grpo_core.config import build_config
from grpo_core.errors import ConfigError, InvalidNameError
from grpo_core.home import Home
from grpo_core.schedule.runs.resumption import find_resumption
from grpo_core.training.checkpoint.state import FORMAT, STATE_FILE, folder_name, sealed

OWN: dict[str, Any] = {
    "environment": {"name": "my_env:Echo"},
    "rollout": {"num_groups": 3, "group_size": 4},
    "training": {"loss": "gspo", "learning_rate": 1e-4, "clip_dual": 3.0},
    "schedule": {"num_steps": 60},
}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "data", tmp_path / "traces")


def keep(home: Home, step: int, run: str = "hint", values: dict[str, Any] = OWN) -> Path:
    """What ``find_resumption`` reads of the checkpoint of ``step``."""
    config = build_config({**values, "run": run}).model_dump(mode="json")
    folder = home.checkpoints / run / folder_name(step)
    folder.mkdir(parents=True)
    (folder / STATE_FILE).write_bytes(sealed({"format": FORMAT, "step": step, "config": config}))
    return folder


def test_without_settings_it_is_the_checkpoints(home: Home) -> None:
    keep(home, 5)
    found = find_resumption(home, "hint", {})

    assert found.config == build_config({**OWN, "run": "hint"})
    assert (found.changes, found.step, found.is_finished) == ((), 5, False)


def test_the_newest_checkpoint_that_can_be_read_counts(home: Home) -> None:
    keep(home, 5, values=OWN | {"schedule": {"num_steps": 7}})
    (keep(home, 6) / STATE_FILE).write_bytes(b"{}")
    found = find_resumption(home, "hint", {})

    assert (found.step, found.config.schedule.num_steps) == (5, 7)


def test_what_may_change_is_taken_and_said(home: Home) -> None:
    keep(home, 5)
    given = {"schedule": {"num_steps": 80}, "training": {"learning_rate": 2e-4, "clip_dual": None, "loss": "gspo"}}
    found = find_resumption(home, "hint", given)

    assert found.config.training.learning_rate == 2e-4
    assert found.config.training.clip_dual is None
    assert found.config.rollout.num_groups == 3
    assert sorted(map(str, found.changes)) == [
        "schedule.num_steps 60 -> 80",
        "training.clip_dual 3.0 -> not set",
        "training.learning_rate 0.0001 -> 0.0002",
    ]


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (
            {"environment": {"name": "arithmetic"}},
            "--environment 'arithmetic': run 'hint' has 'my_env:Echo' and keeps it; leave it out, or start another run "
            "without --resume",
        ),
        ({"model": {"name": "small"}}, "model.name 'small': run 'hint' has 'tiny' and keeps it"),
        ({"model": {"lora_rank": 8}}, "model.lora_rank 8: run 'hint' has 16 and keeps it"),
        ({"training": {"method": "full"}}, "training.method 'full': run 'hint' has 'lora' and keeps it"),
        ({"model": {"lora_targets": ["q_proj"]}}, "model.lora_targets ['q_proj']: run 'hint' has ['q_proj', 'v_proj'"),
        ({"schedule": {"num_steps": 4}}, "schedule.num_steps 4: run 'hint' has done 5 steps already"),
        ({"schedule": {"num_stepz": 4}}, "schedule.num_stepz: unknown key"),
        ({"rollout": {"group_size": 1}}, "group_size 1 has no siblings"),
    ],
)
def test_what_contradicts_the_run_is_one_line_with_both_values(home: Home, given: dict[str, Any], line: str) -> None:
    keep(home, 5)
    with pytest.raises(ConfigError) as caught:
        find_resumption(home, "hint", given, {"environment.name": "--environment"})

    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_order_of_the_adapted_modules_is_no_change(home: Home) -> None:
    keep(home, 5)
    given = {"model": {"lora_targets": ["down_proj", "up_proj", "v_proj", "q_proj"]}}

    assert find_resumption(home, "hint", given).changes == ()


def test_a_setting_that_came_after_the_checkpoint_has_its_default(home: Home) -> None:
    folder = keep(home, 5)
    config = build_config({**OWN, "run": "hint"}).model_dump(mode="json")
    del config["schedule"]["keep_checkpoints"]
    del config["telemetry"]
    (folder / STATE_FILE).write_bytes(sealed({"format": FORMAT, "step": 5, "config": config}))

    found = find_resumption(home, "hint", {})
    assert (found.config.schedule.keep_checkpoints, found.changes) == (2, ())


def test_a_setting_that_this_version_does_not_have_is_blamed_on_the_version(home: Home) -> None:
    folder = keep(home, 5)
    config = build_config({**OWN, "run": "hint"}).model_dump(mode="json")
    config["schedule"]["gone"] = 1
    (folder / STATE_FILE).write_bytes(sealed({"format": FORMAT, "step": 5, "config": config}))

    with pytest.raises(ConfigError, match=r"run 'hint' is of another version of this program \(schedule\.gone: unkno"):
        find_resumption(home, "hint", {})


@pytest.mark.parametrize(("num_steps", "is_finished"), [(5, True), (6, False)])
def test_a_run_is_finished_when_all_its_steps_are_done(home: Home, num_steps: int, is_finished: bool) -> None:
    keep(home, 5)
    assert find_resumption(home, "hint", {"schedule": {"num_steps": num_steps}}).is_finished == is_finished


def test_there_must_be_something_to_go_on_from(home: Home) -> None:
    keep(home, 5)
    (keep(home, 5, "torn") / STATE_FILE).unlink()
    with pytest.raises(ConfigError, match=r"run 'other' has no checkpoint in .*; runs with one: hint, torn; correct"):
        find_resumption(home, "other", {})
    with pytest.raises(ConfigError, match=r"no checkpoint of run 'torn' in .* can be read"):
        find_resumption(home, "torn", {})
    with pytest.raises(InvalidNameError, match=r"run '\.\./hint'"):
        find_resumption(home, "../hint", {})


def test_settings_of_ones_own_environment_are_kept_and_a_change_is_said(home: Home) -> None:
    own = {"name": "my_env:Echo", "settings": {"words": "animals"}}
    keep(home, 5, values=OWN | {"environment": own})
    assert find_resumption(home, "hint", {}).config.environment.settings == {"words": "animals"}
    found = find_resumption(home, "hint", {"environment": {"settings": {"limit": 3}}})
    assert found.config.environment.settings == {"words": "animals", "limit": 3}
    assert [str(change) for change in found.changes] == ["environment.settings.limit not set -> 3"]
