"""TRL's ``GRPOTrainer.train``: same questions in the same order, same initial adapter, same settings."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.learning_arms.core_arm import task_config
from bench.learning_arms.run import LearningRun, Start, Task
from grpo_core.environments.arithmetic import answer, question


def learn(task: Task, start: Start, folder: Path) -> LearningRun:
    """Train in TRL. Some of its defaults are changed, so that both arms compute the same in the same precision."""
    import torch
    from datasets import Dataset  # pyright: ignore[reportMissingImports]
    from peft import LoraConfig, set_peft_model_state_dict
    from transformers import AutoTokenizer, PrinterCallback, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer  # pyright: ignore[reportAttributeAccessIssue, reportMissingImports]

    from grpo_core.model.source import locate_model

    config = task_config(task)
    where = locate_model(task.model)
    rewards: list[float] = []
    seconds: list[float] = []

    class Clock(TrainerCallback):
        """Notes when each step has ended."""

        def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            seconds.append(time.perf_counter() - began)

    def reward(prompts: Sequence[str], completions: Sequence[str], **columns: Any) -> list[float]:
        earned = [float(text.strip() == _sum_of(prompt)) for prompt, text in zip(prompts, completions, strict=True)]
        rewards.append(float(np.mean(earned)))
        return earned

    options = GRPOConfig(
        output_dir=str(folder),
        report_to="none",
        disable_tqdm=True,
        logging_strategy="no",
        save_strategy="no",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        model_init_kwargs={"dtype": "float32"},
        seed=task.seed,
        shuffle_dataset=False,
        per_device_train_batch_size=task.num_groups * task.group_size,
        num_generations=task.group_size,
        max_completion_length=task.max_completion_tokens,
        max_steps=task.num_steps,
        temperature=config.rollout.temperature,
        loss_type="dapo",
        scale_rewards="group",
        epsilon=config.training.clip_low,
        beta=0.0,
        learning_rate=config.training.learning_rate_for(256),  # of the preset tiny
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_grad_norm=config.training.max_grad_norm,
    )
    lora = LoraConfig(
        r=config.model.lora_rank,
        lora_alpha=config.model.lora_alpha,  # pyright: ignore[reportArgumentType]  # PEFT takes a float here
        target_modules=list(config.model.lora_targets),
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):  # TRL seeds the whole process
        trainer = GRPOTrainer(
            where,
            reward_funcs=reward,
            args=options,
            train_dataset=Dataset.from_dict({"prompt": list(start.questions)}),
            processing_class=AutoTokenizer.from_pretrained(where, padding_side="left"),
            peft_config=lora,
        )
        weights = {f"base_model.model.{name}": tensor for name, tensor in start.weights.items()}
        set_peft_model_state_dict(trainer.model, weights)
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(Clock)
        began = time.perf_counter()
        trainer.train()
    return LearningRun(tuple(rewards), start.questions, tuple(seconds))


def _sum_of(prompt: str) -> str:
    """The correct answer to one of the environment's questions."""
    first, second = (int(number) for number in re.findall(r"\d+", prompt))
    assert prompt == question(first, second)
    return answer(first, second).strip()
