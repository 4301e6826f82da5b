"""Objects and references that are damaged, and a store that cannot be written."""

from __future__ import annotations

from pathlib import Path

import pytest

from grpo_core.errors import AdapterCorruptError, GrpoError
from grpo_core.lora.store import AdapterStore
from grpo_core.types import PolicyVersion
from tests.grpo_core.lora.weights import assert_equal, make_adapter, make_full


def damage_flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def damage_truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def damage_remove(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("damage", [damage_flip, damage_truncate, damage_remove])
@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
def test_a_damaged_object_is_a_clear_error_and_publishing_again_repairs_it(tmp_path: Path, damage, name: str) -> None:
    store = AdapterStore(tmp_path)
    folder = store.publish(make_adapter(3))
    damage(folder / name)

    for call in (store.load, store.folder_of):
        with pytest.raises(AdapterCorruptError) as caught:
            call(PolicyVersion("run", 3))
        assert str(folder / name) in str(caught.value)
        assert "\n" not in str(caught.value)

    assert store.publish(make_adapter(3)) == folder == store.folder_of(PolicyVersion("run", 3))
    assert_equal(store.load(PolicyVersion("run", 3)), make_adapter(3))


@pytest.mark.parametrize(
    ("old", "new"),
    [('"rank": 2', '"rank": 3'), ("base-1", "base-2"), ('"files"', '"flies"'), ("{", ""), ("q_proj", "\\udcffx")],
)
def test_a_damaged_reference_is_a_clear_error(tmp_path: Path, old: str, new: str) -> None:
    store = AdapterStore(tmp_path)
    store.publish(make_adapter(3))
    path = tmp_path / "runs" / "run" / "v000003.json"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))

    with pytest.raises(AdapterCorruptError, match=f"{path} is damaged; delete that file"):
        store.load(PolicyVersion("run", 3))


def test_a_store_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(GrpoError, match=r"cannot write .*; set GRPO_HOME"):
        AdapterStore(tmp_path / "file" / "store").publish(make_adapter(0))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_damaged_full_weights_are_noticed_and_repaired(name: str, tmp_path: Path) -> None:
    store = AdapterStore(tmp_path)
    path = store.publish(make_full(3)) / name
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(AdapterCorruptError, match=rf"{name} does not match its sha256"):
        store.load(PolicyVersion("run", 3))

    store.publish(make_full(3))

    assert_equal(store.load(PolicyVersion("run", 3)), make_full(3))
