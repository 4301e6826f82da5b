from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from grpo_core.home import Home
from pytest_grpo.baseline.files import (
    _checksum,
    baselines_folder,
    check_new_name,
    list_baselines,
    read_baseline,
    save_baseline,
)
from pytest_grpo.baseline.fingerprint import Fingerprint, take_fingerprint
from pytest_grpo.types import Row

ROW = Row(
    metric="batched_speedup",
    phase=2,
    kind="at_least",
    bound_low=2.0,
    bound_high=None,
    threshold=">= 2",
    source="file",
    unit="",
    verdict="pass",
    reason="",
    measured=3.0,
    device="cpu",
    low=2.9,
    high=3.1,
    confidence=0.98,
    num_pairs=3,
    ratios=[2.9, 3.0, 3.1],
    quantity="tokens_per_second",
    arms={"fast": {"seconds": [0.1, 0.1, 0.1], "tokens": [30.0, 31.0, 32.0]}},
    conditions={"gpu_throttle_reasons": []},
)
RESULTS = [("bench/test_a.py::test_a", ROW)]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(data=tmp_path / "data", traces=tmp_path / "traces")


@pytest.fixture(scope="module")
def fingerprint(tmp_path_factory: pytest.TempPathFactory) -> Fingerprint:
    return take_fingerprint(tmp_path_factory.mktemp("nothing"), {"batched_speedup": ">= 2"})


def test_what_is_stored_is_read_by_name_and_by_path(home: Home, fingerprint: Fingerprint) -> None:
    path = save_baseline(home, "main", fingerprint, RESULTS)
    assert path == home.data / "baselines" / "main.json"
    by_name = read_baseline(home, "main")
    assert by_name == read_baseline(home, str(path))
    assert (by_name.name, by_name.fingerprint, by_name.results) == ("main", fingerprint, RESULTS)
    assert by_name.created_at.endswith("+00:00")


def test_a_baseline_is_never_overwritten(home: Home, fingerprint: Fingerprint) -> None:
    path = save_baseline(home, "main", fingerprint, RESULTS)
    stored = path.read_bytes()
    for attempt in (lambda: check_new_name(home, "main"), lambda: save_baseline(home, "main", fingerprint, RESULTS)):
        with pytest.raises(pytest.UsageError, match=r"baseline 'main': .* exists and is never overwritten; choose"):
            attempt()
    assert path.read_bytes() == stored


def test_of_sessions_that_end_at_once_one_gets_the_name(home: Home, fingerprint: Fingerprint) -> None:
    refused = []

    def save() -> None:
        try:
            save_baseline(home, "main", fingerprint, RESULTS)
        except pytest.UsageError as error:
            refused.append(error)

    threads = [threading.Thread(target=save) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 3
    assert read_baseline(home, "main").results == RESULTS


@pytest.mark.parametrize("name", ["../main", "", "a b", "."])
def test_unsafe_names_are_refused(home: Home, name: str) -> None:
    with pytest.raises(pytest.UsageError, match="only letters, digits"):
        check_new_name(home, name)


def test_nothing_is_stored_of_a_session_without_gates(home: Home, fingerprint: Fingerprint) -> None:
    with pytest.raises(pytest.UsageError, match="no gate was measured"):
        save_baseline(home, "main", fingerprint, [])
    assert not baselines_folder(home).exists()


def test_a_missing_one_is_answered_with_those_that_exist(home: Home, fingerprint: Fingerprint) -> None:
    with pytest.raises(pytest.UsageError, match=r"'main': no such file, and .* has nothing yet; .* --grpo-save"):
        read_baseline(home, "main")
    save_baseline(home, "before", fingerprint, RESULTS)
    for name in ("main", "../data/main", "missing.json"):
        with pytest.raises(pytest.UsageError, match=r"no such file, and .* has before; name one of these"):
            read_baseline(home, name)


def rewritten(text: str) -> str:
    """The same with a ratio changed by hand."""
    return text.replace("2.9,", "9.2,")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda text: text[: len(text) // 2], "damaged: it is not JSON"),
        (lambda text: "[]", "damaged: it has no format_version"),
        (lambda text: "", "damaged: it is not JSON"),
        (rewritten, "damaged: its checksum does not match"),
        (lambda text: text.replace('"format_version": 1', '"format_version": 2'), "format version 2 is unknown"),
    ],
)
def test_damage_is_found(home: Home, fingerprint: Fingerprint, damage, says: str) -> None:
    save_baseline(home, "good", fingerprint, RESULTS)
    path = save_baseline(home, "main", fingerprint, RESULTS)
    path.write_text(damage(path.read_text()))
    with pytest.raises(pytest.UsageError) as refusal:
        read_baseline(home, "main")
    assert str(path) in str(refusal.value)
    assert says in str(refusal.value)
    assert "\n" not in str(refusal.value)
    readable, problems = list_baselines(home)
    assert [baseline.name for baseline in readable] == ["good"]
    assert problems == [str(refusal.value)]


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("ratios", [1.0, 0.0], "batched_speedup: a ratio is not finite"),
        ("measured", "fast", "results.0.1.measured: 'fast' is not a number"),
    ],
)
def test_a_file_that_is_whole_but_makes_no_sense_is_damaged(
    home: Home, fingerprint: Fingerprint, key: str, value: object, says: str
) -> None:
    path = save_baseline(home, "main", fingerprint, RESULTS)
    content = json.loads(path.read_text())
    del content["sha256"]
    content["results"][0][1][key] = value
    path.write_text(json.dumps(content | {"sha256": _checksum(content)}))
    with pytest.raises(pytest.UsageError, match=says):
        read_baseline(home, "main")


def test_they_are_listed_oldest_first(home: Home, fingerprint: Fingerprint) -> None:
    assert list_baselines(home) == ([], [])
    for name in ("z", "a"):
        save_baseline(home, name, fingerprint, RESULTS)
    assert [baseline.name for baseline in list_baselines(home)[0]] == ["z", "a"]
