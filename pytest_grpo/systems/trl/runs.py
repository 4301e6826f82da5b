"""Runs of ``GRPOTrainer.train``, and what they tell of each step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_grpo.measuring.sampling.clock import now
from pytest_grpo.systems.event_file import EventFile
from pytest_grpo.systems.protocol import SystemSettings
from pytest_grpo.systems.run_plan import RunPlan
from pytest_grpo.systems.step_record import StepRecord
from pytest_grpo.systems.trl.trainer import build_trainer

if TYPE_CHECKING:
    from torch import Tensor

SEEDS_PER_STEP = 1000
"""Between the seeds of two steps: a run that goes on at a step draws as one that began there."""


@dataclass
class TrlRuns:
    """Runs one after the other, each in a trainer of its own: TRL's keeps nothing that another run could go on from."""

    settings: SystemSettings
    home: Path
    num_steps: int = 0
    """Of all runs so far."""
    _events: EventFile = field(default_factory=EventFile)

    def open_events(self, file: Path, run: str) -> EventFile:
        """As ``GrpoSystem.events``."""
        self._events = EventFile(file, run)
        return self._events

    def run(
        self, num_steps: int, plan: RunPlan, state: Mapping[str, Tensor], optimizer: Any
    ) -> tuple[dict[str, Tensor], list[StepRecord]]:
        """Train from the adapter ``state`` and the state of ``optimizer``: the adapter afterwards, and a record per
        step. ``optimizer`` then has the state after the run."""
        import torch
        from peft import get_peft_model_state_dict, set_peft_model_state_dict
        from transformers import PrinterCallback

        log = RunLog(self.num_steps, self._events.write)
        trainer = build_trainer(
            self.settings,
            self.home / f"from-{self.num_steps}",
            prompts=plan.prompts,
            reward=_reward_of(plan),
            callbacks=[_recorder(log)],
            options=_options(num_steps, self.num_steps, plan),
        )
        trainer.remove_callback(PrinterCallback)
        _watch_sampling(trainer, log)
        set_peft_model_state_dict(trainer.model, dict(state))
        _copy_state(optimizer, trainer.create_optimizer())
        devices = [trainer.accelerator.device] if trainer.accelerator.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            log.begin()
            trainer.train()
        _copy_state(trainer.optimizer, optimizer)
        self.num_steps += num_steps
        weights = get_peft_model_state_dict(trainer.model, save_embedding_layers=False)
        return {name: tensor.detach().clone() for name, tensor in weights.items()}, log.records


@dataclass(frozen=True, slots=True)
class SampledBatch:
    """What TRL generated and scored for one step."""

    began_at_s: float
    ended_at_s: float
    num_prompt_tokens: int
    num_completion_tokens: int


@dataclass
class RunLog:
    """Makes the record of each step. TRL's sampler and trainer share one copy of the weights: publishing takes no time,
    and each waits for the other."""

    num_steps: int
    on_step: Callable[[StepRecord], None]
    records: list[StepRecord] = field(default_factory=list)
    _batch: SampledBatch | None = None
    _finished_at_s: float = 0.0  # the last step
    _sampled_at_s: float = 0.0  # the last batch, until its end

    def begin(self) -> None:
        """The run begins."""
        self._finished_at_s = self._sampled_at_s = now()

    def sampled(self, batch: SampledBatch) -> None:
        """The batch of the next step is there."""
        self._batch = batch

    def trained(self, values: Mapping[str, float]) -> None:
        """The step is done; ``values`` is what TRL logged of it."""
        batch, end = self._batch, now()
        assert batch is not None, "no step without a batch"
        self.num_steps += 1
        record = StepRecord(
            step=self.num_steps,
            reward_mean=values["reward"],
            loss=values["loss"],
            grad_norm=values["grad_norm"],
            policy_lag_steps=0,
            buffer_depth=1,
            trainer_wait_s=batch.ended_at_s - self._finished_at_s,
            sampler_wait_s=batch.began_at_s - self._sampled_at_s,
            rollout_s=batch.ended_at_s - batch.began_at_s,
            train_s=end - batch.ended_at_s,
            publish_s=0.0,
            finished_at_s=end,
            num_prompt_tokens=batch.num_prompt_tokens,
            num_completion_tokens=batch.num_completion_tokens,
            num_loss_tokens=batch.num_completion_tokens,
        )
        self._finished_at_s, self._sampled_at_s = end, batch.ended_at_s
        self.records.append(record)
        self.on_step(record)


def _options(num_steps: int, first_step: int, plan: RunPlan) -> dict[str, Any]:
    return {
        "per_device_train_batch_size": plan.num_episodes,
        "num_generations": plan.group_size,
        "max_completion_length": plan.max_tokens,
        "max_steps": num_steps,
        "seed": plan.seed + SEEDS_PER_STEP * first_step,
        "shuffle_dataset": False,
        "learning_rate": plan.learning_rate,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "save_strategy": "no",
    }


def _copy_state(source: Any, target: Any) -> None:
    """What ``source`` knows of the same parameters goes into ``target``, which keeps its learning rate."""
    target.load_state_dict({"state": source.state_dict()["state"], "param_groups": target.state_dict()["param_groups"]})


def _reward_of(plan: RunPlan) -> Callable[..., list[float]]:
    def reward(prompts: Sequence[str], completions: Sequence[str], **columns: Any) -> list[float]:
        return [plan.reward(prompt, (text,)) for prompt, text in zip(prompts, completions, strict=True)]

    return reward


def _watch_sampling(trainer: Any, log: RunLog) -> None:
    """Note when ``trainer`` samples, and how much."""
    generate = trainer._generate_and_score_completions

    def watched(inputs: Any) -> Any:
        start = now()
        output = generate(inputs)
        num_prompt_tokens, num_tokens = (int(output[f"{part}_mask"].sum()) for part in ("prompt", "completion"))
        log.sampled(SampledBatch(start, now(), num_prompt_tokens, num_tokens))
        return output

    trainer._generate_and_score_completions = watched


def _recorder(log: RunLog) -> Any:
    """A callback of transformers that notes what was logged of each step, which is right after its end."""
    from transformers import TrainerCallback

    class Recorder(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if logs and "loss" in logs:
                log.trained(logs)

    return Recorder()
