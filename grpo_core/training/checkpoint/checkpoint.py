"""Checkpoints: a training state as one checksummed folder, written atomically.

step-000012/adapter.safetensors     the policy; model.safetensors with full fine-tuning
            optimizer.safetensors   "<parameter index>.<name>"
            random.safetensors      the random number generators
            state.json              position, shapes, the run's configuration, sha256 of the others and of itself
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from grpo_core.errors import CheckpointError, HomeError, first_line
from grpo_core.home import make_folder, remove_folder, write_folder
from grpo_core.lora.layout import described, description_of
from grpo_core.training.checkpoint.random_state import RandomState, capture_random_state
from grpo_core.training.checkpoint.state import FORMAT, STATE_FILE, checkpoints_in, folder_name, read_state, sealed
from grpo_core.training.trainer import Trainer
from grpo_core.types import Adapter, PolicyVersion, PolicyWeights

logger = logging.getLogger(__name__)

_ADAPTER, _MODEL = "adapter.safetensors", "model.safetensors"
_OPTIMIZER, _RANDOM = "optimizer.safetensors", "random.safetensors"
_KEYS = {
    "method": "training.method",
    "base_fingerprint": "model.name (its weights)",
    "target_modules": "model.lora_targets",
    "rank": "model.lora_rank",
    "alpha": "model.lora_alpha",
}  # field of a description -> the user's name for it


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a run needs to continue: policy, optimizer state, random number generators, position."""

    path: Path
    weights: PolicyWeights
    optimizer: dict[str, torch.Tensor]  # "<parameter index>.<name>"
    optimizer_name: str
    random: RandomState
    next_batch: int  # index of the first batch that is not trained on yet: the buffer's cursor
    num_skipped_steps: int
    config: dict[str, Any]
    rows: str = ""  # digest of the data set that it was trained on; empty without one


def save_checkpoint(
    folder: Path,
    trainer: Trainer,
    config: Mapping[str, Any],
    *,
    random_state: RandomState | None = None,
    keep_last: int = 2,
    rows: str = "",
) -> Path:
    """Write ``folder/step-000012``, and keep the newest ``keep_last`` checkpoints, this one included.

    ``random_state`` is the state to continue from, by default the current one. ``rows`` is the digest of the data set.

    Raises:
        HomeError: the folder cannot be written.
    """
    assert keep_last >= 1
    weights = trainer.weights()
    target = make_folder(folder) / folder_name(trainer.version)
    optimizer = {
        f"{index}.{name}": value.detach().cpu().contiguous()
        for index, values in trainer.optimizer.state_dict()["state"].items()
        for name, value in values.items()
    }
    random = random_state if random_state is not None else capture_random_state()
    name = _ADAPTER if isinstance(weights, Adapter) else _MODEL
    tensors = {name: weights.tensors, _OPTIMIZER: optimizer, _RANDOM: random}
    contents = {name: save(dict(values)) for name, values in tensors.items()}
    state = {
        "format": FORMAT,
        "step": trainer.version,
        "next_batch": trainer.version,  # step k trains on batch k
        "num_skipped_steps": trainer.num_skipped_steps,
        "run": weights.version.run,
        **description_of(weights),
        "optimizer": type(trainer.optimizer).__name__,
        "config": dict(config),
        "rows": rows,
        "sha256": {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()},
    }
    contents[STATE_FILE] = sealed(state)
    try:
        _write(target, contents)
        _tidy(folder, keep_last)
    except OSError as error:
        raise HomeError(f"cannot write {target}: {error.strerror}; free space or set GRPO_HOME") from error
    return target


def load_checkpoint(folder: Path) -> Checkpoint:
    """The newest readable checkpoint in ``folder``; a damaged one is skipped with a warning.

    Raises:
        CheckpointError: there is none.
    """
    for path in reversed(checkpoints_in(folder)):
        try:
            return read_checkpoint(path)
        except CheckpointError as error:
            logger.warning("%s; using the one before it", error)
    raise CheckpointError(f"no readable checkpoint in {folder}: nothing to resume; start without --resume")


def read_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint in the folder ``path``.

    Raises:
        CheckpointError: it is damaged, or not there.
    """
    try:
        return _read(path)
    except (OSError, ValueError, KeyError, TypeError, OverflowError, SafetensorError) as error:
        raise CheckpointError(f"checkpoint {path} is damaged ({_reason(error)})") from error


def restore_trainer(trainer: Trainer, checkpoint: Checkpoint) -> None:
    """Continue ``trainer`` from ``checkpoint``. The random number generators are the caller's to restore.

    Raises:
        CheckpointError: it belongs to another model, adapter or optimizer; names the key. Nothing has changed then.
    """
    _check_fits(trainer, checkpoint)
    trainer.load_weights(checkpoint.weights)
    trainer.num_skipped_steps = checkpoint.num_skipped_steps
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in checkpoint.optimizer.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = value
    groups = trainer.optimizer.state_dict()["param_groups"]
    trainer.optimizer.load_state_dict({"state": state, "param_groups": groups})


def _check_fits(trainer: Trainer, checkpoint: Checkpoint) -> None:
    there, here = _described(checkpoint.weights), _described(trainer.weights())
    compared = {key: (there.get(name), here.get(name)) for name, key in _KEYS.items()}
    compared["the optimizer"] = (checkpoint.optimizer_name, type(trainer.optimizer).__name__)
    for key, (stored, own) in compared.items():
        if stored != own:
            raise CheckpointError(
                f"checkpoint {checkpoint.path}: {key} is {stored} there and {own} here; set it back, or start "
                "another run without --resume"
            )


def _described(weights: PolicyWeights) -> dict[str, Any]:
    """The description in a comparable form: the order of ``lora_targets`` does not matter."""
    found = {"method": "lora"} | description_of(weights)
    return {name: sorted(value) if isinstance(value, list) else value for name, value in found.items()}


def _read(path: Path) -> Checkpoint:
    state = read_state(path)
    policy = _ADAPTER if _ADAPTER in state["sha256"] else _MODEL
    contents = {name: (path / name).read_bytes() for name in (policy, _OPTIMIZER, _RANDOM)}
    for name, content in contents.items():
        if hashlib.sha256(content).hexdigest() != state["sha256"][name]:
            raise ValueError(f"{name} does not match its checksum")
    tensors, optimizer, random = (load(content) for content in contents.values())
    return Checkpoint(
        path=path,
        weights=described(PolicyVersion(state["run"], state["step"]), state, tensors),
        optimizer=optimizer,
        optimizer_name=state["optimizer"],
        random=random,
        next_batch=state["next_batch"],
        num_skipped_steps=state["num_skipped_steps"],
        rows=str(state.get("rows", "")),
        config=state["config"],
    )


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return f"{Path(error.filename).name} is missing"
    return first_line(error)


def _write(target: Path, contents: Mapping[str, bytes]) -> None:
    with write_folder(target) as folder:
        for name, content in contents.items():
            (folder / name).write_bytes(content)


def _tidy(folder: Path, keep_last: int) -> None:
    """Remove all but the newest ``keep_last`` checkpoints, and what a killed process left half-written."""
    for old in checkpoints_in(folder)[:-keep_last]:
        remove_folder(old)
    for remains in folder.glob(".step-*"):
        shutil.rmtree(remains, ignore_errors=True)
