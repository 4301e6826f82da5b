"""A run has one trainer at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from grpo_core.cloud.run_claim import claim_run
from grpo_core.errors import ConfigError, InvalidNameError
from grpo_core.home import Home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "data", tmp_path / "traces")


def nothing() -> None:
    pass


def claim(
    home: Home,
    run: str,
    call_id: str,
    *,
    running: tuple[str, ...] = (),
    commit: Callable[[], None] = nothing,
    reload: Callable[[], None] = nothing,
) -> bool:
    return claim_run(home, run, call_id, running.__contains__, commit=commit, reload=reload)


def test_the_same_call_again_continues(home: Home):
    assert claim(home, "demo", "fc-1") is False
    assert claim(home, "demo", "fc-1", running=("fc-1",)) is True


def test_another_call_waits_until_the_first_has_ended(home: Home):
    claim(home, "demo", "fc-1")

    with pytest.raises(ConfigError, match="run 'demo' is being trained by the call fc-1 now"):
        claim(home, "demo", "fc-2", running=("fc-1",))
    assert claim(home, "demo", "fc-2") is False
    assert claim(home, "other", "fc-1") is False


def test_of_two_calls_at_once_one_gives_way(home: Home):
    """The other one's claim is committed last, and is what both see then."""
    steps: list[str] = []

    def reload() -> None:
        steps.append("reload")
        (home.data / "claims" / "demo.json").write_text('{"call": "fc-2"}')

    with pytest.raises(ConfigError, match="is being trained by the call fc-2 now"):
        claim(home, "demo", "fc-1", commit=lambda: steps.append("commit"), reload=reload)
    assert steps == ["commit", "reload"]


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "null"])
def test_a_damaged_claim_is_nobodys(content: str, home: Home):
    (home.data / "claims").mkdir(parents=True)
    (home.data / "claims" / "demo.json").write_text(content)

    assert claim(home, "demo", "fc-1") is False


def test_a_bad_name_is_refused(home: Home):
    with pytest.raises(InvalidNameError, match="'a/b'"):
        claim(home, "a/b", "fc-1")
