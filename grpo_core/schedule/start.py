"""What a run starts from: the base model and an empty buffer, or its checkpoint and the batches that wait there."""

from __future__ import annotations

import logging

from grpo_core.errors import ConfigError
from grpo_core.schedule.buffer.buffer import RolloutBuffer
from grpo_core.schedule.stack import Stack
from grpo_core.training.checkpoint.checkpoint import Checkpoint, load_checkpoint, restore_trainer
from grpo_core.training.checkpoint.random_state import restore_random_state

logger = logging.getLogger(__name__)


def prepare(stack: Stack, *, resume: bool) -> Checkpoint | None:
    """Bring trainer and adapter store to the same version: the checkpoint's, or the base model.

    Raises:
        ConfigError: the run has a checkpoint already and ``resume`` is off.
        CheckpointError, AdapterError: there is nothing to resume, or it does not fit.
    """
    if resume:
        checkpoint = load_checkpoint(stack.checkpoint_folder)
        if checkpoint.rows and stack.rows and checkpoint.rows != stack.rows:
            logger.warning(
                "environment.data.path %s: its rows have changed since the checkpoint, so the run goes on with other "
                "rows than it would have had; put the old file back to repeat it",
                stack.config.environment.data.path,
            )
        restore_trainer(stack.trainer, checkpoint)
        restore_random_state(checkpoint.random)
        stack.store.discard_after(stack.config.run, stack.trainer.version - 1)
        stack.store.publish(stack.trainer.weights())
        return checkpoint
    if any(stack.checkpoint_folder.glob("step-*")):
        raise ConfigError(
            f"run {stack.config.run!r} has checkpoints in {stack.checkpoint_folder}; continue it with --resume, "
            "or give --run another name"
        )
    stack.store.discard_after(stack.config.run, -1)
    return None


def open_buffer(stack: Stack, resumed: Checkpoint | None) -> RolloutBuffer:
    """The run's buffer: empty, or with the batches that the checkpoint ``resumed`` had not trained on."""
    config, schedule = stack.config, stack.config.schedule
    depth, lag, num_steps = schedule.buffer_depth, schedule.max_policy_lag_steps, schedule.num_steps
    if resumed is None:
        return RolloutBuffer(stack.buffer_folder, depth, lag, num_steps)
    now = config.model_dump(mode="json")
    repeats_training = all(resumed.config[section] == now[section] for section in ("model", "training"))
    if config.training.learning_rate_schedule != "constant":
        repeats_training &= resumed.config["schedule"]["num_steps"] == num_steps
    return RolloutBuffer.recover(
        stack.buffer_folder, depth, lag, num_steps, resumed.next_batch, repeats_training=repeats_training
    )
