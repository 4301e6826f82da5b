from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from grpo_core.environments.state_cache import StateCache
from grpo_core.errors import HomeError

KEY = {"environment": "arithmetic max_operand=9", "policy": "run-v000001", "seed": 3}
SNAPSHOT = {"state": {"units": ["A PAR", "F BRE"], "year": 1902}, "score": 0.1}


def _only_file(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def test_what_was_put_is_got_by_any_cache_of_the_folder(tmp_path: Path) -> None:
    cache = StateCache(tmp_path / "states")
    assert cache.get(KEY) is None
    cache.put(KEY, SNAPSHOT)
    assert cache.get(dict(reversed(KEY.items()))) == SNAPSHOT
    assert (cache.num_hits, cache.num_misses) == (1, 1)
    assert StateCache(tmp_path / "states").get(KEY) == SNAPSHOT


def test_another_key_is_a_miss(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = StateCache(tmp_path)
    cache.put(KEY, SNAPSHOT)
    assert cache.get({**KEY, "seed": 4}) is None
    assert cache.get({**KEY, "seed": "3"}) is None
    assert (cache.num_hits, cache.num_misses) == (0, 2)
    assert not caplog.records


@pytest.mark.parametrize("damage", ["truncate", "empty", "binary", "other json", "edit snapshot", "edit key", "folder"])
def test_a_damaged_entry_is_a_miss_with_one_warning_and_is_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    cache = StateCache(tmp_path)
    cache.put(KEY, SNAPSHOT)
    path = _only_file(tmp_path)
    _damage(path, damage)
    with caplog.at_level(logging.WARNING):
        assert cache.get(KEY) is None
    (record,) = caplog.records
    assert str(path) in record.getMessage()
    assert (cache.num_hits, cache.num_misses) == (0, 1)
    if damage != "folder":
        cache.put(KEY, SNAPSHOT)
        assert cache.get(KEY) == SNAPSHOT


def _damage(path: Path, damage: str) -> None:
    content = path.read_bytes()
    if damage == "truncate":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "binary":
        path.write_bytes(b"\xff\xfe\x00")
    elif damage == "other json":
        path.write_text("[1, 2]")
    elif damage == "edit snapshot":
        path.write_bytes(content.replace(b"1902", b"1903"))
    elif damage == "edit key":
        entry = json.loads(content)
        path.write_text(json.dumps({**entry, "key": {**KEY, "seed": 5}}))
    elif damage == "folder":
        path.unlink()
        path.mkdir()


def test_an_unwritable_folder_is_a_clear_error_and_leaves_nothing(tmp_path: Path) -> None:
    tmp_path.joinpath("states").write_text("not a folder")
    with pytest.raises(HomeError, match="set GRPO_HOME"):
        StateCache(tmp_path / "states").put(KEY, SNAPSHOT)
    assert _only_file(tmp_path).read_text() == "not a folder"
