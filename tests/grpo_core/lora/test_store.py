from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from grpo_core.errors import AdapterError, AdapterNotFoundError, InvalidNameError
from grpo_core.lora.store import AdapterStore
from grpo_core.types import Adapter, PolicyVersion
from tests.grpo_core.lora.weights import MODULES, assert_equal, make_adapter, make_full


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
