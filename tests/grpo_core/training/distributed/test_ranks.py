"""Two processes make the steps of one: the same gradient, whoever has more to do, with whole and with split weights."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from grpo_core.schedule.buffer.batch_file import write_batch
from grpo_core.training.distributed.ranks import SingleProcess, open_ranks
from grpo_core.types import Batch, Group
from tests.grpo_core.training.distributed.two_processes import make_trainer, tensors_of

SampleBatch = Callable[..., Batch]
Found = dict[str, list[dict[str, Any]]]

EXACT = {"learning_rate": 0.0, "max_grad_norm": 1e9, "kl_coefficient": 0.05, "micro_batch_tokens": 1}
CASES: dict[str, dict[str, Any]] = {
    "replicated": {"training": EXACT, "batches": ["uneven"]},
    "sharded": {"training": EXACT | {"shard_base_weights": True}, "batches": ["uneven"]},
    "rescored": {
        "training": EXACT | {"shard_base_weights": True, "old_logprobs": "recomputed", "loss": "gspo"},
        "batches": ["without_reference"],
    },
    "idle": {"training": EXACT, "batches": ["one_group"]},
    "idle_sharded": {"training": EXACT | {"shard_base_weights": True}, "batches": ["one_group"]},
    "batch_std": {"training": EXACT | {"advantages": "batch_std", "loss": "grpo"}, "batches": ["uneven"]},
    "trained": {"training": EXACT | {"learning_rate": 0.01}, "batches": ["uneven", "one_group", "uneven"]},
    "full": {"training": EXACT | {"method": "full"}, "batches": ["uneven"]},
    "full_idle": {"training": EXACT | {"method": "full"}, "batches": ["one_group"]},
    "full_reference": {"training": EXACT | {"method": "full"}, "batches": ["without_reference"]},
    "overflow": {"training": EXACT | {"learning_rate": 0.01}, "batches": ["uneven", "overflowing"]},
}


def mapped(batch: Batch, change: Callable[[Any], Any]) -> Batch:
    """``batch`` with each turn changed."""
    groups = [
        replace(
            group,
            trajectories=tuple(
                replace(item, turns=tuple(change(turn) for turn in item.turns)) for item in group.trajectories
            ),
        )
        for group in batch.groups
    ]
    return replace(batch, groups=tuple(groups))


def make_batches(sample_batch: SampleBatch, engine: Any) -> dict[str, Batch]:
    uneven = sample_batch(engine, 31, num_groups=5)
    first = uneven.groups[0]
    bad = replace(
        first.trajectories[1],
        turns=tuple(
            replace(turn, sampling_logprobs=np.where(turn.completion_mask, -1e4, 0.0).astype(np.float32))
            for turn in first.trajectories[1].turns
        ),
    )
    overflowing: Group = replace(first, trajectories=(first.trajectories[0], bad, *first.trajectories[2:]))
    return {
        "uneven": uneven,
        "one_group": replace(uneven, groups=uneven.groups[1:2]),
        "without_reference": mapped(
            uneven, lambda turn: turn if len(turn.prompt_ids) % 2 else replace(turn, ref_logprobs=None)
        ),
        "overflowing": replace(uneven, groups=(overflowing, *uneven.groups[1:])),
    }


@pytest.fixture(scope="module")
def batches(
    model_folder: Path, sample_batch: SampleBatch, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Batch]:
    from grpo_core.config import ModelConfig
    from grpo_core.lora.cache import LoRACache
    from grpo_core.lora.store import AdapterStore
    from grpo_core.model.policy import load_policy
    from grpo_core.rollout.torch_engine.engine import TorchEngine

    cache = LoRACache(AdapterStore(tmp_path_factory.mktemp("adapters")), max_bytes=1 << 20, max_adapters=3)
    engine = TorchEngine(load_policy(ModelConfig(name=str(model_folder), device="cpu")), (0,), cache, "run")
    return make_batches(sample_batch, engine)


@pytest.fixture(scope="module")
def folder(model_folder: Path, batches: dict[str, Batch], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where both processes have left what they found, of all cases."""
    folder = tmp_path_factory.mktemp("two_processes")
    for name, batch in batches.items():
        write_batch(folder / f"{name}.arrow", batch)
    (folder / "cases.json").write_text(json.dumps(CASES))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    script = Path(__file__).with_name("two_processes.py")
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), str(folder), str(model_folder)],
            env=os.environ
            | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
            | {"MASTER_PORT": port, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        errors = [process.communicate(timeout=240)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)
    return folder


def found_by(folder: Path, name: str, rank: int) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    return json.loads((folder / f"{name}-{rank}.json").read_text()), load_file(folder / f"{name}-{rank}.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CASES if name != "trained"])
def test_two_processes_find_the_gradient_and_the_metrics_of_one(
    name: str, folder: Path, batches: dict[str, Batch], model_folder: Path
) -> None:
    case = CASES[name]
    trainer = make_trainer(str(model_folder), case["training"])
    metrics = [trainer.step(batches[batch]) for batch in case["batches"]]
    expected = tensors_of(trainer)

    for rank in range(2):
        found, tensors = found_by(folder, name, rank)
        assert tensors.keys() == expected.keys()
        for key, value in expected.items():
            assert torch.allclose(tensors[key], value, atol=2e-6, rtol=1e-5), (key, tensors[key] - value)
        for step, whole in zip(found["metrics"], metrics, strict=True):
            for field in ("num_loss_tokens", "num_sequences", "num_micro_batches", "num_forward_passes", "step"):
                assert step[field] == vars_of(whole)[field], field
            assert step["nonfinite_trajectories"] == whole.nonfinite_trajectories
            assert step["is_skipped"] == whole.is_skipped
            if whole.is_skipped:
                continue
            for field in ("loss", "kl", "entropy", "ratio_min", "ratio_max", "mismatch_kl", "grad_norm"):
                assert step[field] == pytest.approx(vars_of(whole)[field], rel=1e-4, abs=1e-5), field
    if name == "overflow":
        assert metrics[-1].nonfinite_trajectories == "0[1]"
    else:
        assert max(float(value.abs().max()) for key, value in expected.items() if key[:8] == "gradient") > 1e-3


def vars_of(metrics: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(metrics)


@pytest.mark.slow
def test_the_work_is_uneven(folder: Path, batches: dict[str, Batch]) -> None:
    """Else nothing above says what becomes of who has less to do."""
    assert len(batches["uneven"].groups) == 5
    assert len(batches["one_group"].groups) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", list(CASES))
def test_both_processes_have_the_same_weights_bit_for_bit(name: str, folder: Path) -> None:
    one, other = (found_by(folder, name, rank)[1] for rank in range(2))

    assert all(torch.equal(one[key], other[key]) for key in one)
    assert found_by(folder, name, 0)[0]["version"] == len(CASES[name]["batches"])


def test_one_process_has_no_process_group() -> None:
    with open_ranks() as ranks:
        assert isinstance(ranks, SingleProcess)
        assert not torch.distributed.is_initialized()
        assert ranks.share([3, 1, 2]) == [0, 1, 2]
        assert ranks.broadcast(b"content") == b"content"
