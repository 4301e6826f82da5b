"""A run has one trainer at a time."""

from __future__ import annotations

from pathlib import Path

import pytest

from grpo_core.cloud.run_claim import claim_run
from grpo_core.errors import ConfigError, InvalidNameError
from grpo_core.home import Home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "data", tmp_path / "traces")


def test_the_same_call_again_continues(home: Home):
    assert claim_run(home, "demo", "fc-1", lambda call: True) is False
    assert claim_run(home, "demo", "fc-1", lambda call: True) is True


def test_another_call_waits_until_the_first_has_ended(home: Home):
    claim_run(home, "demo", "fc-1", lambda call: True)

    with pytest.raises(ConfigError, match="run 'demo' is being trained by the call fc-1 now"):
        claim_run(home, "demo", "fc-2", lambda call: call == "fc-1")
    assert claim_run(home, "demo", "fc-2", lambda call: False) is False
    assert claim_run(home, "other", "fc-1", lambda call: True) is False


def test_a_bad_name_is_refused(home: Home):
    with pytest.raises(InvalidNameError, match="'a/b'"):
        claim_run(home, "a/b", "fc-1", lambda call: False)
