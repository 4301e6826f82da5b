from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from grpo_core.errors import AdapterCorruptError, AdapterError, AdapterNotFoundError, GrpoError, InvalidNameError
from grpo_core.lora.store import AdapterStore
from grpo_core.types import Adapter, FullWeights, PolicyVersion, PolicyWeights

MODULES = ("model.layers.0.self_attn.q_proj", "model.layers.0.mlp.down_proj")


def make_adapter(number: int, run: str = "run", seed: int | None = None, rank: int = 2) -> Adapter:
    generator = torch.Generator().manual_seed(number if seed is None else seed)
    tensors = {}
    for module in MODULES:
        tensors[f"{module}.lora_A.weight"] = torch.randn(rank, 8, generator=generator)
        tensors[f"{module}.lora_B.weight"] = torch.randn(8, rank, generator=generator)
    return Adapter(PolicyVersion(run, number), "base-1", rank, 4.0, ("q_proj", "down_proj"), tensors)


def assert_equal(left: PolicyWeights, right: PolicyWeights) -> None:
    assert dataclasses.replace(left, tensors={}) == dataclasses.replace(right, tensors={})
    assert left.tensors.keys() == right.tensors.keys()
    for name in left.tensors:
        assert left.tensors[name].dtype == right.tensors[name].dtype
        assert torch.equal(left.tensors[name], right.tensors[name])


def object_files(folder: Path) -> list[Path]:
    return sorted((folder / "objects").glob("*/*"))


def test_a_published_adapter_loads_unchanged(tmp_path: Path) -> None:
    adapter = make_adapter(3)
    AdapterStore(tmp_path).publish(adapter)

    assert_equal(AdapterStore(tmp_path).load(PolicyVersion("run", 3)), adapter)


def test_loaded_tensors_are_writable_memory_of_their_own(tmp_path: Path) -> None:
    store = AdapterStore(tmp_path)
    store.publish(make_adapter(1))

    store.load(PolicyVersion("run", 1)).tensors[f"{MODULES[0]}.lora_A.weight"].zero_()

    assert_equal(store.load(PolicyVersion("run", 1)), make_adapter(1))


def test_views_of_one_buffer_and_bfloat16_are_stored(tmp_path: Path) -> None:
    flat = torch.arange(48, dtype=torch.bfloat16)
    tensors = {
        f"{MODULES[0]}.lora_A.weight": flat[:16].view(8, 2).T,
        f"{MODULES[0]}.lora_B.weight": flat[8:24].view(8, 2),
        f"{MODULES[1]}.lora_B.weight": flat[16:32].view(8, 2),
    }
    adapter = dataclasses.replace(make_adapter(0), tensors=tensors)
    store = AdapterStore(tmp_path)
    store.publish(adapter)

    assert_equal(store.load(adapter.version), adapter)


def test_layout_and_reference_are_as_documented(tmp_path: Path) -> None:
    folder = AdapterStore(tmp_path).publish(make_adapter(3))

    reference = json.loads((tmp_path / "runs" / "run" / "v000003.json").read_text())
    assert folder == tmp_path / "objects" / reference["object"]
    assert sorted(path.name for path in folder.iterdir()) == sorted(reference["files"])
    assert sorted(reference["files"]) == ["adapter_config.json", "adapter_model.safetensors"]
    assert (reference["base_fingerprint"], reference["rank"], reference["alpha"]) == ("base-1", 2, 4.0)
    assert reference["target_modules"] == ["q_proj", "down_proj"]
    assert reference["created_at"].endswith("+00:00")


def test_versions_are_sorted_by_number_and_kept_by_run(tmp_path: Path) -> None:
    store = AdapterStore(tmp_path)
    assert store.versions("run") == []
    assert store.latest("run") is None
    for number in (2, 1_000_000, 0):
        store.publish(make_adapter(number))
    store.publish(make_adapter(7, run="other"))
    (tmp_path / "runs" / "run" / "notes.json").write_text("{}")

    assert [version.number for version in store.versions("run")] == [0, 2, 1_000_000]
    assert store.latest("run") == PolicyVersion("run", 1_000_000)
    assert store.latest("other") == PolicyVersion("other", 7)


def test_equal_content_is_one_object_and_publishing_again_changes_nothing(tmp_path: Path) -> None:
    store = AdapterStore(tmp_path)
    first = store.publish(make_adapter(1, seed=5))
    reference = (tmp_path / "runs" / "run" / "v000001.json").stat()

    assert store.publish(make_adapter(1, seed=5)) == first
    assert store.publish(make_adapter(2, seed=5)) == first
    after = (tmp_path / "runs" / "run" / "v000001.json").stat()
    assert (after.st_ino, after.st_mtime_ns) == (reference.st_ino, reference.st_mtime_ns)


@pytest.mark.parametrize(
    "other",
    [
        make_adapter(1, seed=9),
        dataclasses.replace(make_adapter(1), base_fingerprint="base-2"),
        dataclasses.replace(make_adapter(1), alpha=8.0),
    ],
    ids=["tensors", "base", "alpha"],
)
def test_publishing_a_version_with_other_content_is_refused(tmp_path: Path, other: Adapter) -> None:
    store = AdapterStore(tmp_path)
    store.publish(make_adapter(1))

    with pytest.raises(AdapterError, match="run-v000001: already published with other content"):
        store.publish(other)
    assert_equal(store.load(other.version), make_adapter(1))


def test_an_unknown_version_names_the_published_ones(tmp_path: Path) -> None:
    store = AdapterStore(tmp_path)
    with pytest.raises(AdapterNotFoundError, match=r"run-v000004: .* of run 'run': none; "):
        store.load(PolicyVersion("run", 4))
    for number in (0, 1, 3):
        store.publish(make_adapter(number))
    with pytest.raises(AdapterNotFoundError, match=r"run-v000004: .* of run 'run': 0, 1, 3; "):
        store.load(PolicyVersion("run", 4))


@pytest.mark.parametrize("run", ["..", "a/b", ""])
def test_a_run_that_could_leave_the_store_is_refused(tmp_path: Path, run: str) -> None:
    store = AdapterStore(tmp_path / "store")
    for call in (
        lambda: store.publish(make_adapter(0, run=run)),
        lambda: store.load(PolicyVersion(run, 0)),
        lambda: store.latest(run),
        lambda: store.prune(run, 1),
    ):
        with pytest.raises(InvalidNameError):
            call()
    assert not list((tmp_path / "store").glob("*/*"))


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


def test_prune_keeps_the_newest_versions_and_the_objects_still_needed(tmp_path: Path) -> None:
    store = AdapterStore(tmp_path)
    for number in range(5):
        store.publish(make_adapter(number))
    store.publish(make_adapter(0, run="other"))  # the object of run-v000000
    (tmp_path / "objects" / ".killed.tmp").mkdir()

    store.prune("run", keep_last=2)

    assert [version.number for version in store.versions("run")] == [3, 4]
    assert len(list((tmp_path / "objects").iterdir())) == 3
    assert_equal(store.load(PolicyVersion("other", 0)), make_adapter(0, run="other"))
    assert_equal(store.load(PolicyVersion("run", 3)), make_adapter(3))
    with pytest.raises(AdapterNotFoundError):
        store.load(PolicyVersion("run", 0))


def test_prune_removes_no_object_while_a_reference_cannot_be_read(tmp_path: Path) -> None:
    store = AdapterStore(tmp_path)
    store.publish(make_adapter(1))
    store.publish(make_adapter(1, run="other"))
    (tmp_path / "runs" / "other" / "v000001.json").write_text("{")

    store.prune("run", keep_last=0)

    assert store.versions("run") == []
    assert len(object_files(tmp_path)) == 2


def test_discard_after_makes_way_for_a_run_that_starts_again(tmp_path: Path) -> None:
    store = AdapterStore(tmp_path)
    for number in range(4):
        store.publish(make_adapter(number))

    store.discard_after("run", 1)
    assert [version.number for version in store.versions("run")] == [0, 1]
    store.publish(make_adapter(2, seed=99))
    assert_equal(store.load(PolicyVersion("run", 2)), make_adapter(2, seed=99))

    store.discard_after("run", -1)
    assert store.versions("run") == []
    assert object_files(tmp_path) == []


class Killed(BaseException):
    """Stands for the process ending at that very call."""


def test_wherever_a_publication_is_cut_off_the_version_is_whole_or_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_fsync, real_replace = os.fsync, os.replace
    num_cut_off = 0
    for num_calls_allowed in range(50):
        folder = tmp_path / str(num_calls_allowed)
        AdapterStore(folder).publish(make_adapter(1))
        calls_left = [num_calls_allowed]

        def count(calls_left: list[int] = calls_left) -> None:
            if calls_left[0] == 0:
                raise Killed
            calls_left[0] -= 1

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", lambda file, count=count: (count(), real_fsync(file))[1])
            patch.setattr(os, "replace", lambda old, new, count=count: (count(), real_replace(old, new))[1])
            try:
                AdapterStore(folder).publish(make_adapter(2))
            except Killed:
                num_cut_off += 1

        store = AdapterStore(folder)
        assert_equal(store.load(PolicyVersion("run", 1)), make_adapter(1))
        if PolicyVersion("run", 2) in store.versions("run"):
            assert_equal(store.load(PolicyVersion("run", 2)), make_adapter(2))
        store.publish(make_adapter(2))
        assert_equal(store.load(PolicyVersion("run", 2)), make_adapter(2))
        if calls_left[0] > 0:
            break
    assert num_cut_off >= 8  # two files, an object folder and a reference: each synced and renamed


HOLD_LOCK = """
import sys
from filelock import FileLock
with FileLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_publishing_waits_for_another_process_that_publishes(tmp_path: Path) -> None:
    store = AdapterStore(tmp_path)
    store.publish(make_adapter(1))
    arguments = [sys.executable, "-c", HOLD_LOCK, str(tmp_path / ".lock")]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        publishing = threading.Thread(target=store.publish, args=(make_adapter(2),))
        publishing.start()
        publishing.join(0.3)
        assert publishing.is_alive()
        assert_equal(store.load(PolicyVersion("run", 1)), make_adapter(1))  # reading does not wait
        assert store.versions("run") == [PolicyVersion("run", 1)]
        other.stdin.close()
        publishing.join(30)
    assert_equal(store.load(PolicyVersion("run", 2)), make_adapter(2))


def test_threads_that_publish_the_same_versions_exclude_each_other(tmp_path: Path) -> None:
    store = AdapterStore(tmp_path)

    def publish_all(offset: int) -> list[int]:
        won = []
        for number in range(10):
            try:
                store.publish(make_adapter(number, seed=number + offset))
            except AdapterError:
                continue
            won.append(number)
        return won

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(publish_all, (0, 100))
    assert sorted(first + second) == list(range(10))  # each version has one winner
    for number in range(10):
        seed = number if number in first else number + 100
        assert_equal(store.load(PolicyVersion("run", number)), make_adapter(number, seed=seed))


def test_peft_loads_a_published_adapter_and_computes_the_same(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    torch.manual_seed(0)
    base = Qwen2ForCausalLM(config).eval()
    weights = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    lora = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    trained = peft.get_peft_model(base, lora)
    for name, parameter in trained.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter)
    state = {
        name.removeprefix("base_model.model."): tensor
        for name, tensor in peft.get_peft_model_state_dict(trained).items()
    }
    adapter = Adapter(PolicyVersion("run", 1), "base-1", 4, 8.0, ("q_proj", "down_proj"), state)
    ids = torch.arange(10).unsqueeze(0)
    with torch.no_grad():
        expected = trained(ids).logits

    folder = AdapterStore(tmp_path).publish(adapter)

    stored = peft.PeftConfig.from_pretrained(folder)
    assert isinstance(stored, peft.LoraConfig)
    assert (stored.r, stored.lora_alpha, stored.target_modules) == (4, 8.0, {"q_proj", "down_proj"})
    fresh = Qwen2ForCausalLM(config).eval()
    fresh.load_state_dict(weights)
    loaded = peft.PeftModel.from_pretrained(fresh, folder).eval()
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, expected)
        with loaded.disable_adapter():
            assert not torch.allclose(loaded(ids).logits, expected)


def test_a_store_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(GrpoError, match=r"cannot write .*; set GRPO_HOME"):
        AdapterStore(tmp_path / "file" / "store").publish(make_adapter(0))


def make_full(number: int, run: str = "run") -> FullWeights:
    generator = torch.Generator().manual_seed(number)
    tensors = {f"model.layers.{layer}.weight": torch.randn(8, 8, generator=generator) for layer in range(2)}
    return FullWeights(PolicyVersion(run, number), "base-1", {"model_type": "llama", "vocab_size": 8}, tensors)


def test_full_weights_go_by_the_same_rules(tmp_path: Path) -> None:
    """Beside an adapter of the same run: published whole, pruned, and found to be another content."""
    store = AdapterStore(tmp_path)
    store.publish(make_adapter(1))
    store.publish(make_full(2))
    folder = store.publish(make_full(3))

    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert_equal(store.load(PolicyVersion("run", 1)), make_adapter(1))
    assert_equal(store.load(PolicyVersion("run", 2)), make_full(2))
    with pytest.raises(AdapterError, match="already published with other content"):
        store.publish(make_adapter(3))
    store.prune("run", keep_last=1)
    assert [path.name for path in (tmp_path / "objects").iterdir()] == [folder.name]
    assert_equal(store.load(PolicyVersion("run", 3)), make_full(3))


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
