from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from grpo_core.config import ModelConfig
from grpo_core.errors import ModelError
from grpo_core.model.policy import linear_modules, load_policy, resolve_device
from grpo_core.model.tokenizer import load_tokenizer
from tests.grpo_core.model.broken_models import copy_of, edit_json, one_line
from tests.grpo_core.small_models import save_small_model


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3", "llama"])
def test_a_policy_is_frozen_and_describes_itself(architecture: str, model_folders: dict[str, Path]) -> None:
    policy = load_policy(ModelConfig(name=str(model_folders[architecture]), device="cpu"))

    assert (policy.num_layers, policy.max_context_tokens, policy.device.type) == (2, 2048, "cpu")
    assert policy.vocab_size == policy.model.get_parameter("model.embed_tokens.weight").shape[0]
    assert not policy.model.training
    assert not any(parameter.requires_grad for parameter in policy.model.parameters())
    hidden = policy.decoder(input_ids=torch.tensor([[1, 2, 3]])).last_hidden_state
    assert torch.equal(policy.head(hidden), policy.model(input_ids=torch.tensor([[1, 2, 3]])).logits)


def test_the_fingerprint_tells_weights_apart(model_folders: dict[str, Path], tmp_path: Path) -> None:
    folder = copy_of(model_folders["llama"], tmp_path / "model")
    policy = load_policy(ModelConfig(name=str(folder), device="cpu"))
    model: Any = policy.model
    with torch.no_grad():
        model.lm_head.weight[0, 0] += 0.01
    model.save_pretrained(folder)

    prints = [
        load_policy(ModelConfig(name=str(path), device="cpu")).fingerprint for path in (folder, *model_folders.values())
    ]

    assert len(set(prints)) == 4
    assert load_policy(ModelConfig(name=str(model_folders["llama"]), device="cpu")).fingerprint == prints[-1]


def test_unknown_devices_are_named() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type in {"cpu", "cuda"}
    for name in ("tpu", "cuda:99"):
        with pytest.raises(ModelError, match=f"{name}'.*'auto', 'cpu' or 'cuda'") as error:
            resolve_device(name)
        one_line(error)


def test_an_unknown_device_is_named_before_a_preset_is_built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GRPO_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match=r"model\.device 'tpu'"):
        load_policy(ModelConfig(name="tiny", device="tpu"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ('{"model_type": "gpt2"}', "'gpt2' is not supported; allowed: llama, qwen2, qwen3"),
        ('{"model_type": "nonsense"}', "cannot be loaded|not supported"),
        ("{}", "cannot be loaded|not supported"),
        ("{", "cannot be loaded"),
    ],
)
def test_a_config_that_is_no_supported_model(content: str, match: str, model_folder: Path, tmp_path: Path) -> None:
    folder = copy_of(model_folder, tmp_path / "model")
    (folder / "config.json").write_text(content)

    with pytest.raises(ModelError, match=match) as error:
        load_policy(ModelConfig(name=str(folder), device="cpu"))
    assert str(folder) in one_line(error)


def test_sliding_windows_are_refused(model_folder: Path, tmp_path: Path) -> None:
    folder = copy_of(model_folder, tmp_path / "model")
    edit_json(folder / "config.json", layer_types=["full_attention", "sliding_attention"], use_sliding_window=True)

    with pytest.raises(ModelError, match="sliding-window"):
        load_policy(ModelConfig(name=str(folder), device="cpu"))


def test_another_architecture_keeps_transformers_own_attention_where_it_is_asked_for(
    mistral_folder: Path, load_plain: Callable[[Path], Any]
) -> None:
    config = ModelConfig(name=str(mistral_folder), device="cpu")
    policy = load_policy(config, any_architecture=True)
    ids = torch.arange(1, 30)[None]

    assert (policy.name, policy.architecture, policy.takes_plan) == (str(mistral_folder), "mistral", False)
    assert (policy.num_layers, policy.vocab_size, policy.max_context_tokens) == (2, 384, 256)
    assert torch.equal(policy.model(input_ids=ids).logits, load_plain(mistral_folder)(input_ids=ids).logits)
    with pytest.raises(
        ModelError, match=r"'mistral' is not supported; allowed: llama, qwen2, qwen3, and others with rollout"
    ):
        load_policy(config)


def test_a_supported_architecture_takes_a_plan_either_way(model_folder: Path) -> None:
    config = ModelConfig(name=str(model_folder), device="cpu")
    for any_architecture in (False, True):
        policy = load_policy(config, any_architecture=any_architecture)
        assert (policy.architecture, policy.takes_plan) == ("qwen2", True)
        assert policy.model.config._attn_implementation == "grpo"  # type: ignore[union-attr]


def test_a_model_without_a_context_length_is_refused(tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model("bloom", vocab_size=64, hidden_size=16, n_layer=1, n_head=2)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="no max_position_embeddings in its config") as error:
        load_policy(ModelConfig(name=str(tmp_path), device="cpu"), any_architecture=True)
    one_line(error)

    edit_json(tmp_path / "config.json", max_position_embeddings=32)
    policy = load_policy(ModelConfig(name=str(tmp_path), device="cpu"), any_architecture=True)
    assert policy.max_context_tokens == 32


def test_a_model_that_generates_nothing_is_one_line(tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.for_model(
        "vit", hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    AutoModel.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="cannot be loaded") as error:
        load_policy(ModelConfig(name=str(tmp_path), device="cpu"), any_architecture=True)
    one_line(error)


def test_damaged_or_missing_weights_are_one_line(model_folder: Path, tmp_path: Path) -> None:
    folder = copy_of(model_folder, tmp_path / "model")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    for _ in ("cut off", "missing"):
        with pytest.raises(ModelError, match="cannot be loaded") as error:
            load_policy(ModelConfig(name=str(folder), device="cpu"))
        one_line(error)
        weights.unlink(missing_ok=True)


@pytest.mark.parametrize("change", ["missing", "cut"])
def test_weights_that_do_not_fit_the_config_are_not_made_up(change: str, model_folder: Path, tmp_path: Path) -> None:
    """transformers would only warn, and train on with random values."""
    folder = copy_of(model_folder, tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    weight = tensors.pop(name)
    if change == "cut":
        tensors[name] = weight[:8].contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(ModelError, match=rf"1 weights are missing or of another shape.*\({name}\)") as error:
        load_policy(ModelConfig(name=str(folder), device="cpu"))
    one_line(error)


def test_two_loads_share_no_weights(model_folder: Path) -> None:
    """The engine merges adapters into its copy while the trainer trains on its own."""
    first, second = (load_policy(ModelConfig(name=str(model_folder), device="cpu")) for _ in range(2))
    assert isinstance(first.head, nn.Linear)
    assert isinstance(second.head, nn.Linear)
    with torch.no_grad():
        first.head.weight.zero_()

    assert float(second.head.weight.abs().max()) > 0


class Malicious:
    """Unpickling it writes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.target, "it ran")


@pytest.mark.parametrize("is_malicious", [False, True])
def test_a_pickle_is_never_read(is_malicious: bool, model_folder: Path, tmp_path: Path) -> None:
    folder, ran = copy_of(model_folder, tmp_path / "model"), tmp_path / "ran"
    weights = load_file(folder / "model.safetensors")
    torch.save({"x": Malicious(ran)} if is_malicious else weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()

    with pytest.raises(ModelError, match="its weights are a pickle, which is never read; save them as") as error:
        load_policy(ModelConfig(name=str(folder), device="cpu"))
    one_line(error)
    assert not ran.exists()


def test_code_of_a_model_is_never_run_and_nobody_is_asked(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, ran = copy_of(model_folder, tmp_path / "model"), tmp_path / "ran"
    code = f"open({str(ran)!r}, 'w')\nfrom transformers import Qwen2Config as C, Qwen2ForCausalLM as M\n"
    (folder / "own_code.py").write_text(code)
    auto_map = {"AutoConfig": "own_code.C", "AutoModelForCausalLM": "own_code.M"}
    edit_json(folder / "config.json", auto_map=auto_map, model_type="own")
    edit_json(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["own_code.T", None]})
    monkeypatch.setattr("builtins.input", lambda *_: "y")

    for load in (load_tokenizer, lambda name: load_policy(ModelConfig(name=name, device="cpu"), any_architecture=True)):
        with pytest.raises(ModelError, match="it brings code of its own, which is never run") as error:
            load(str(folder))
        one_line(error)
    edit_json(folder / "config.json", model_type="qwen2")  # an architecture that transformers has
    load_policy(ModelConfig(name=str(folder), device="cpu"))
    assert not ran.exists()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"num_attention_heads": "4"}, "num_attention_heads"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128}}, "quantised by gptq"),
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, "quantised by awq"),
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}, "quantised by bitsandbytes"),
        ({"quantization_config": {"quant_method": "unheard"}}, "quantised by unheard"),
    ],
)
def test_a_configuration_that_cannot_be_loaded_is_one_line(
    changes: dict[str, Any], match: str, model_folder: Path, tmp_path: Path
) -> None:
    folder = copy_of(model_folder, tmp_path / "model")
    edit_json(folder / "config.json", **changes)

    with pytest.raises(ModelError, match=match) as error:
        load_policy(ModelConfig(name=str(folder), device="cpu"))
    assert str(folder) in one_line(error)


def test_the_language_model_within_a_multimodal_one_is_described(tmp_path: Path) -> None:
    text = {
        "vocab_size": 384, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "head_dim": 16,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
    }  # fmt: skip
    vision = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
        "patch_size": 14,
    }  # fmt: skip
    save_small_model(
        "gemma3", tmp_path, text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_index=383
    )

    policy = load_policy(ModelConfig(name=str(tmp_path), device="cpu"), any_architecture=True)

    assert (policy.num_layers, policy.vocab_size, policy.max_context_tokens) == (2, 384, 256)
    assert not any("vision" in name for name, _ in policy.decoder.named_modules())


def test_the_decoder_is_the_part_with_the_embeddings(tmp_path: Path) -> None:
    """Llama 4's takes itself for its decoder."""
    save_small_model("llama4_text", tmp_path, intermediate_size_mlp=96, num_local_experts=4)

    policy = load_policy(ModelConfig(name=str(tmp_path), device="cpu"), any_architecture=True)

    assert policy.decoder is policy.model.get_submodule("model")
    assert not any("router" in name for name in linear_modules(policy.decoder))  # it returns more than a product


class _GroupedMap(torch.nn.Linear):
    """Maps each of two groups by its part of the weight, as a projection of DeepSeek V4 does."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        groups = input.reshape(-1, 2, self.in_features)
        return torch.einsum("tgi,goi->tgo", groups, self.weight.view(2, -1, self.in_features))


def test_a_map_of_groups_is_no_place_for_an_adapter() -> None:
    """What an adapter adds to it has another shape. It was a traceback."""
    layer = torch.nn.ModuleDict({"grouped": _GroupedMap(4, 6), "plain": torch.nn.Linear(4, 6)})
    assert layer["grouped"](torch.zeros(3, 2, 4)).shape == (3, 2, 3)
    assert list(linear_modules(layer)) == ["plain"]
