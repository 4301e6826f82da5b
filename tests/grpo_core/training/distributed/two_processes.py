"""What each of the two processes of ``test_parallel.py`` runs: every case, one after the other, in one group.

    python two_processes.py FOLDER MODEL

with the environment of torchrun. FOLDER has the cases and their batches, and gets what each process found.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from grpo_core.config import ModelConfig, TrainingConfig
from grpo_core.model.policy import load_policy
from grpo_core.schedule.buffer.batch_file import read_batch
from grpo_core.training.distributed.ranks import Ranks, open_ranks
from grpo_core.training.trainer import Trainer


def main(folder: Path, model_folder: str) -> None:
    torch.set_num_threads(1)
    with open_ranks() as ranks:
        for name, case in json.loads((folder / "cases.json").read_text()).items():
            found = run(ranks, folder, model_folder, case)
            save_file(found.pop("tensors"), folder / f"{name}-{ranks.rank}.safetensors")
            (folder / f"{name}-{ranks.rank}.json").write_text(json.dumps(found))


def run(ranks: Ranks, folder: Path, model_folder: str, case: dict[str, Any]) -> dict[str, Any]:
    trainer = make_trainer(model_folder, case["training"], ranks)
    metrics = [asdict(trainer.step(read_batch(folder / f"{batch}.arrow"))) for batch in case["batches"]]
    return {"metrics": metrics, "version": trainer.version, "tensors": tensors_of(trainer)}


def make_trainer(model_folder: str, training: dict[str, Any], ranks: Ranks | None = None) -> Trainer:
    model = ModelConfig(name=model_folder, device="cpu", lora_rank=4, lora_alpha=8.0)
    trainer = Trainer(load_policy(model), model, TrainingConfig(**training), run="run", ranks=ranks)
    generator = torch.Generator().manual_seed(5)
    for parameter in trainer.optimizer.param_groups[0]["params"]:  # with B = 0, half of the gradients would be 0
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.05
    return trainer


def tensors_of(trainer: Trainer) -> dict[str, torch.Tensor]:
    """The gradients of the last step and the adapter after it."""
    gradients = [parameter.grad for parameter in trainer.optimizer.param_groups[0]["params"]]
    found = {f"gradient.{index}": value.clone() for index, value in enumerate(gradients) if value is not None}
    return found | {f"adapter.{name}": value for name, value in trainer.weights().tensors.items()}


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
