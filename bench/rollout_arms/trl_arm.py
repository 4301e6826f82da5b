"""TRL's own generation, as its ``GRPOTrainer`` calls it when it does not use vLLM, with the adapter on PEFT's model."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import set_peft_model_state_dict
from safetensors.torch import load_file

from bench.rollout_arms.arm import RolloutSample, Setup, Workload
from pytest_grpo.measuring.sampling.clock import now
from pytest_grpo.systems.protocol import SystemSettings
from pytest_grpo.systems.trl.trainer import build_trainer


class TrlArm:
    """Samples all sequences in one batch. It ignores constraints and samples ``num_tokens`` tokens freely."""

    def __init__(self, setup: Setup, lora: Path) -> None:
        settings = SystemSettings(
            home=setup.folder,
            model=setup.model.name,
            lora_rank=setup.model.lora_rank,
            lora_alpha=setup.model.lora_alpha,
            lora_targets=setup.model.lora_targets,
            device=setup.model.device,
        )
        self._num_threads = setup.num_threads
        self._trainer = build_trainer(settings, setup.folder / "trl")
        set_peft_model_state_dict(self._trainer.model, load_file(lora / "adapter_model.safetensors"))
        self._trainer.model.to(getattr(torch, setup.model.dtype))

    def run(self, workload: Workload) -> RolloutSample:
        torch.set_num_threads(self._num_threads)
        torch.manual_seed(workload.seed)
        lengths = self._trainer.generation_config
        lengths.max_new_tokens = lengths.min_new_tokens = workload.num_tokens
        rows = [prompt.tolist() for prompt in workload.prompts for _ in range(workload.group_size)]
        start = now()
        completions, _ = self._trainer._generate_single_turn(rows, None, {}, workload.group_size)
        seconds = now() - start
        return RolloutSample(sum(map(len, completions)), seconds)

    def close(self) -> None:
        pass
