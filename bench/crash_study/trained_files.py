"""The parsers of what training leaves: adapters, checkpoints and batches."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from bench.crash_study.mutations import as_json
from bench.crash_study.parser import Parse, Parser, of_json


@cache
def _adapter() -> Any:
    import torch

    from grpo_core.types import Adapter, PolicyVersion

    tensors = {"a.lora_A.weight": torch.ones(1, 2), "a.lora_B.weight": torch.zeros(2, 1)}
    return Adapter(PolicyVersion("run", 1), "model", 1, 1.0, ("a",), tensors)


@cache
def _published() -> tuple[Mapping[str, Any], bytes]:
    """The fields of an adapter's reference, and its weights."""
    from grpo_core.lora.layout import ADAPTER_FILE, description_of, files_of

    files = files_of(_adapter())
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    return {**description_of(_adapter()), "files": digests}, files[ADAPTER_FILE]


def _store(folder: Path) -> Any:
    from grpo_core.lora.store import AdapterStore

    store = AdapterStore(folder / "adapters")
    store.publish(_adapter())
    return store


def _reference(folder: Path) -> Parse:
    """The address is made right, and the object is there, so that the fields are read."""
    store = _store(folder)
    path = folder / "adapters/runs/run/v000001.json"
    (object_folder,) = (folder / "adapters/objects").iterdir()

    def parse(content: bytes) -> object:
        changed, address = _with_address(content)
        path.write_bytes(changed)
        if address and not (folder / "adapters/objects" / address).exists():
            (folder / "adapters/objects" / address).symlink_to(object_folder)
        return store.load(_adapter().version)

    return parse


def _with_address(content: bytes) -> tuple[bytes, str]:
    try:
        fields = json.loads(content)
        rest = {key: value for key, value in fields.items() if key not in ("object", "created_at")}
    except (ValueError, AttributeError, RecursionError):
        return content, ""
    address = hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
    return as_json({**rest, "object": address}), address


def _adapter_file(folder: Path) -> Parse:
    """Its checksum is right in the reference."""
    from grpo_core.lora.layout import ADAPTER_FILE

    store = _store(folder)
    path = folder / "adapters/runs/run/v000001.json"

    def parse(content: bytes) -> object:
        fields = dict(_published()[0])
        fields["files"] = {ADAPTER_FILE: hashlib.sha256(content).hexdigest()}
        reference, address = _with_address(as_json(fields))
        path.write_bytes(reference)
        (folder / "adapters/objects" / address).mkdir(exist_ok=True)
        (folder / "adapters/objects" / address / ADAPTER_FILE).write_bytes(content)
        return store.load(_adapter().version)

    return parse


@cache
def _checkpoint() -> tuple[dict[str, Any], Mapping[str, bytes]]:
    """The state, and the files, of a checkpoint."""
    from safetensors.torch import save

    from grpo_core.config import GrpoConfig
    from grpo_core.lora.layout import description_of
    from grpo_core.training.checkpoint.random_state import capture_random_state
    from grpo_core.training.checkpoint.state import FORMAT

    adapter = _adapter()
    files = {
        "adapter.safetensors": save(dict(adapter.tensors)),
        "optimizer.safetensors": save({"0.exp_avg": adapter.tensors["a.lora_A.weight"]}),
        "random.safetensors": save(dict(capture_random_state())),
    }
    state = {
        "format": FORMAT,
        "step": 1,
        "next_batch": 1,
        "num_skipped_steps": 0,
        "run": "run",
        **description_of(adapter),
        "optimizer": "AdamW",
        "config": GrpoConfig().model_dump(mode="json"),
        "sha256": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    }
    return state, files


def _write_checkpoint(folder: Path, state: bytes, files: Mapping[str, bytes]) -> Path:
    path = folder / "step-000001"
    path.mkdir(parents=True, exist_ok=True)
    for name, content in {**files, "state.json": state}.items():
        (path / name).write_bytes(content)
    return path


def _checkpoint_state(folder: Path) -> Parse:
    """The seal is made right, as somebody would who means harm."""
    from grpo_core.home import Home
    from grpo_core.schedule.runs.resumption import find_resumption
    from grpo_core.training.checkpoint.checkpoint import read_checkpoint

    home = Home(folder, folder)

    def parse(content: bytes) -> object:
        path = _write_checkpoint(home.checkpoints / "run", _sealed(content), _checkpoint()[1])
        return find_resumption(home, "run", {}), read_checkpoint(path)

    return parse


def _sealed(content: bytes) -> bytes:
    from grpo_core.training.checkpoint.state import sealed

    try:
        return sealed({key: value for key, value in json.loads(content).items() if key != "seal"})
    except (ValueError, AttributeError, RecursionError):
        return content


def _checkpoint_file(name: str) -> Callable[[Path], Parse]:
    def prepare(folder: Path) -> Parse:
        from grpo_core.training.checkpoint.checkpoint import read_checkpoint
        from grpo_core.training.checkpoint.state import sealed

        state, files = _checkpoint()

        def parse(content: bytes) -> object:
            digests = {**state["sha256"], name: hashlib.sha256(content).hexdigest()}
            changed = sealed({**state, "sha256": digests})
            return read_checkpoint(_write_checkpoint(folder, changed, {**files, name: content}))

        return parse

    return prepare


@cache
def _batch_bytes() -> bytes:
    import numpy as np

    from grpo_core.schedule.buffer.batch_file import encode_batch
    from grpo_core.types import Batch, Completion, Group, RaggedIds, RolloutStats, Trajectory

    ids = np.arange(3, dtype=np.int32)
    turn = Completion(
        prompt_ids=ids,
        completion_ids=ids,
        completion_mask=np.ones(3, dtype=np.bool_),
        sampling_logprobs=np.zeros(3, dtype=np.float32),
        policy_version=0,
        temperature=1.0,
        finish_reason="stop",
        allowed_ids=RaggedIds(ids, np.array([0, 1, 2, 3], dtype=np.int32)),
    )
    groups = (Group("0-0-a", tuple(Trajectory("0-0-a", "a", (turn,), 1.0) for _ in range(2))),)
    counts: dict[str, Any] = {name: 1 for name in RolloutStats.__dataclass_fields__ if name.startswith("num_")}
    stats = RolloutStats(duration_s=1.0, sampled_reward_mean=1.0, **counts)
    return encode_batch(Batch(0, 0, groups, stats))


def _batch(folder: Path) -> Parse:
    """Half of the inputs with a right seal."""
    from grpo_core.schedule.buffer import batch_file

    def parse(content: bytes) -> object:
        if len(content) % 2 and (seal := batch_file._SEAL.search(content)):
            blank = content.replace(seal[0], batch_file._BLANK_SEAL)
            content = blank.replace(batch_file._BLANK_SEAL, batch_file._seal(blank))
        (folder / "batch.arrow").write_bytes(content)
        return batch_file.read_batch(folder / "batch.arrow")

    return parse


TRAINED_FILES: tuple[Parser, ...] = (
    of_json("adapter: reference", lambda: dict(_published()[0]), _reference),
    Parser("adapter: weights", lambda: _published()[1], _adapter_file),
    of_json("checkpoint: state", lambda: dict(_checkpoint()[0]), _checkpoint_state),
    *(
        Parser(f"checkpoint: {name}", lambda name=name: _checkpoint()[1][name], _checkpoint_file(name))
        for name in ("adapter.safetensors", "optimizer.safetensors", "random.safetensors")
    ),
    Parser("batch", _batch_bytes, _batch),
)
