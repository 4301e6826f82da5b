"""Writes the folder: weights, tokenizer and a model card. It appears whole or not at all."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import AutoTokenizer, GenerationConfig

from grpo_core.config import GrpoConfig, ModelConfig
from grpo_core.errors import ConfigError, HomeError, ModelError
from grpo_core.export.card import hub_id, model_card
from grpo_core.home import make_folder, write_folder
from grpo_core.lora.layout import files_of
from grpo_core.model.policy import Policy, load_policy
from grpo_core.model.source import locate_model, reading
from grpo_core.training.checkpoint.checkpoint import Checkpoint
from grpo_core.types import Adapter, PolicyWeights


def check_target(target: Path) -> None:
    """Raises ConfigError when ``target`` has something in it."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"{target} is there already; name another folder, or move it away")


def export_checkpoint(
    checkpoint: Checkpoint, config: GrpoConfig, target: Path, *, merge: bool, moved_model: str | None = None
) -> None:
    """Write the policy of ``checkpoint`` to the folder ``target``.

    An adapter becomes PEFT's folder, or with ``merge`` the base model with the adapter in its weights. Full weights are
    a whole model in any case. The base model is ``moved_model`` where that is given, else the run's own.

    Raises:
        ConfigError: ``target`` is there already.
        ModelError: the base model cannot be loaded, or is another one than the run was trained on.
        HomeError: the folder cannot be written.
    """
    check_target(target)
    weights = checkpoint.weights
    if moved_model is not None:
        model = ModelConfig.model_validate(config.model.model_dump() | {"name": moved_model})
        config = config.model_copy(update={"model": model})
    base = None
    if moved_model is not None or (merge and isinstance(weights, Adapter)):
        base = _load_base(weights, config)  # the tokenizer and the name of another one would be written
    is_whole = merge or not isinstance(weights, Adapter)
    try:
        make_folder(target.absolute().parent)
        with write_folder(target.absolute(), 0o777) as folder:
            if merge and isinstance(weights, Adapter):
                assert base is not None
                _save_merged(weights, base, folder)
            else:
                _write_files(weights, config, folder)
            _save_tokenizer(config.model.name, folder, is_whole=is_whole)
            if is_whole:
                _forget_path(folder / "config.json")
            (folder / "README.md").write_text(
                model_card(config, weights.version.number, is_whole=is_whole), encoding="utf-8"
            )
    except OSError as error:
        raise HomeError(f"cannot write {target}: {error.strerror}; name a folder that you can write") from error


def _write_files(weights: PolicyWeights, config: GrpoConfig, folder: Path) -> None:
    for name, content in files_of(weights).items():
        if name == "adapter_config.json":
            described = json.loads(content) | {"base_model_name_or_path": hub_id(config.model.name)}
            content = (json.dumps(described, indent=2, sort_keys=True) + "\n").encode()
        (folder / name).write_bytes(content)


def _save_merged(weights: Adapter, base: Policy, folder: Path) -> None:
    """The sum is computed in float32 and rounded to the base model's number type once."""
    model: Any = base.model
    dtype = model.dtype
    with tempfile.TemporaryDirectory(prefix="grpo-export-") as adapter:
        for name, content in files_of(weights).items():
            (Path(adapter) / name).write_bytes(content)
        merged: Any = PeftModel.from_pretrained(model.float(), adapter).merge_and_unload()  # type: ignore[operator]
    merged.to(dtype).save_pretrained(folder)


def _load_base(weights: PolicyWeights, config: GrpoConfig) -> Policy:
    """Raises ModelError: ``weights`` were trained from another model."""
    policy = load_policy(config.model.model_copy(update={"device": "cpu"}), any_architecture=True)
    if policy.fingerprint != weights.base_fingerprint:
        raise ModelError(
            f"model {config.model.name!r}: another one than the run was trained on ({policy.fingerprint}, not "
            f"{weights.base_fingerprint}); name the right one with --model"
        )
    return policy


def _forget_path(path: Path) -> None:
    """transformers notes in ``config.json`` where the base model was loaded from."""
    described = json.loads(path.read_bytes())
    described.pop("_name_or_path", None)
    path.write_text(json.dumps(described, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _save_tokenizer(name: str, folder: Path, *, is_whole: bool) -> None:
    where = locate_model(name)
    with reading(name, "a tokenizer that cannot be saved", "check its tokenizer files"):
        AutoTokenizer.from_pretrained(where, trust_remote_code=False).save_pretrained(folder)
    if is_whole and not (folder / "generation_config.json").exists():
        try:
            GenerationConfig.from_pretrained(where).save_pretrained(folder)
        except OSError:  # the base model has none
            return
