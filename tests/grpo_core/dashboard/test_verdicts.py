from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from grpo_core.dashboard.verdicts import VerdictFiles
from grpo_core.home import Home
from pytest_grpo.baseline.files import save_baseline
from pytest_grpo.baseline.fingerprint import take_fingerprint
from pytest_grpo.types import Row

Save = Callable[..., None]


@pytest.fixture
def save(home: Home, request: pytest.FixtureRequest) -> Save:
    """Stores a gate as ``pytest --grpo-save`` does."""

    def saved(name: str, verdict: str = "pass", **fields: Any) -> None:
        gate: dict[str, Any] = {
            "metric": "speedup", "phase": 2, "kind": "at_least", "bound_low": 2.0, "bound_high": None,
            "threshold": ">= 2", "source": "a file", "unit": "x", "verdict": verdict, "reason": "", "measured": 2.5,
            "device": "cpu", "low": 2.4, "high": 2.6,
        }  # fmt: skip
        fingerprint = take_fingerprint(request.config.rootpath, {})
        save_baseline(home, name, fingerprint, [("bench/test_two.py::test_batched", Row(**gate | fields))])

    return saved


def test_a_gate_has_its_history_oldest_first(home: Home, save: Save) -> None:
    save("monday")
    save("tuesday", "fail", measured=1.5, reason="below the threshold")
    (gate,) = VerdictFiles(home).as_json()["gates"]
    assert (gate["test"], gate["metric"]) == ("bench/test_two.py::test_batched", "speedup")
    assert [(each["name"], each["verdict"], each["measured"]) for each in gate["results"]] == [
        ("monday", "pass", 2.5),
        ("tuesday", "fail", 1.5),
    ]
    assert gate["results"][0]["bound_low"] == 2.0
    assert gate["results"][0]["device"]


def test_the_state_differs_when_a_result_is_stored(home: Home, save: Save) -> None:
    files = VerdictFiles(home)
    before = files.state()
    save("monday")
    assert files.state() != before
    assert files.state() == files.state()


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "7", '{"results": 1}', "[" * 100_000, json.dumps({"results": [1, ["a"], ["a", 1], [1, {}]]})],
)
def test_other_files_give_no_gate(home: Home, save: Save, content: str) -> None:
    save("monday")
    (home.data / "baselines" / "other.json").write_text(content)
    (home.data / "baselines" / "folder.json").mkdir()
    assert len(VerdictFiles(home).as_json()["gates"]) == 1


def test_values_of_another_kind_are_nothing(home: Home) -> None:
    row = {"metric": ["x"], "verdict": {"a": 1}, "measured": "<b>", "low": True, "high": 1e999, "system": None}
    stored = {"results": [["t", row]], "created_at": 7, "name": None, "fingerprint": [1]}
    folder = home.data / "baselines"
    folder.mkdir(parents=True)
    (folder / "odd.json").write_text(json.dumps(stored))
    (gate,) = VerdictFiles(home).as_json()["gates"]
    (result,) = gate["results"]
    assert (result["verdict"], result["measured"], result["low"], result["high"]) == ("", None, None, None)
