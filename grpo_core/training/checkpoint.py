"""A training state on disk: adapter and optimizer in one checksummed folder that appears whole or not at all."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from grpo_core.errors import CheckpointError, HomeError
from grpo_core.home import make_folder
from grpo_core.training.trainer import Trainer
from grpo_core.types import Adapter, PolicyVersion

logger = logging.getLogger("grpo_core.training")

KEEP_LAST = 2


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a run needs to go on: the adapter of ``step`` and the optimizer state behind it."""

    adapter: Adapter
    optimizer: dict[str, torch.Tensor]  # "<parameter index>.<name>"
    config: dict[str, Any]


def save_checkpoint(folder: Path, trainer: Trainer, config: dict[str, Any]) -> Path:
    """Write ``folder/step-000012`` and keep the newest ``KEEP_LAST`` beside it.

    Raises:
        HomeError: the folder cannot be written.
    """
    adapter = trainer.adapter()
    target = make_folder(folder) / f"step-{trainer.version:06d}"
    optimizer = {
        f"{index}.{name}": value.detach().cpu().contiguous()
        for index, values in trainer.optimizer.state_dict()["state"].items()
        for name, value in values.items()
    }
    contents = {"adapter.safetensors": save(dict(adapter.tensors)), "optimizer.safetensors": save(optimizer)}
    state = {
        "step": trainer.version,
        "run": adapter.version.run,
        "base_fingerprint": adapter.base_fingerprint,
        "rank": adapter.rank,
        "alpha": adapter.alpha,
        "target_modules": list(adapter.target_modules),
        "config": config,
        "sha256": {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()},
    }
    contents["state.json"] = (json.dumps(state, indent=2, sort_keys=True) + "\n").encode()
    _write_folder(target, contents)
    for old in _steps(folder)[:-KEEP_LAST]:
        shutil.rmtree(old)
    return target


def load_checkpoint(folder: Path) -> Checkpoint:
    """The newest readable checkpoint in ``folder``; a damaged one is named in a warning and the one before it used.

    Raises:
        CheckpointError: there is none.
    """
    for path in reversed(_steps(folder)):
        try:
            return _read(path)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            logger.warning("checkpoint %s is damaged (%s); using the one before it", path, error)
    raise CheckpointError(f"no readable checkpoint in {folder}: nothing to resume; start without --resume")


def restore_trainer(trainer: Trainer, checkpoint: Checkpoint) -> None:
    """Continue ``trainer`` from ``checkpoint``.

    Raises:
        AdapterError: the checkpoint is of another model or adapter shape.
    """
    trainer.load_adapter(checkpoint.adapter)
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in checkpoint.optimizer.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = value
    groups = trainer.optimizer.state_dict()["param_groups"]
    trainer.optimizer.load_state_dict({"state": state, "param_groups": groups})


def _read(path: Path) -> Checkpoint:
    state = json.loads((path / "state.json").read_bytes())
    contents = {name: (path / name).read_bytes() for name in ("adapter.safetensors", "optimizer.safetensors")}
    for name, content in contents.items():
        if hashlib.sha256(content).hexdigest() != state["sha256"][name]:
            raise ValueError(f"{name} does not match its checksum")
    adapter = Adapter(
        version=PolicyVersion(state["run"], state["step"]),
        base_fingerprint=state["base_fingerprint"],
        rank=state["rank"],
        alpha=state["alpha"],
        target_modules=tuple(state["target_modules"]),
        tensors=load(contents["adapter.safetensors"]),
    )
    return Checkpoint(adapter, load(contents["optimizer.safetensors"]), state["config"])


def _steps(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-??????"))


def _write_folder(target: Path, contents: dict[str, bytes]) -> None:
    try:
        temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
        try:
            for name, content in contents.items():
                with open(temporary / name, "wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
            if target.exists():
                shutil.rmtree(target)
            os.rename(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise HomeError(f"cannot write {target}: {error.strerror}; free space or set GRPO_HOME") from error
