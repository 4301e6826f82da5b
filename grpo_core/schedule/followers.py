"""Several processes, one run: process 0 plays, schedules, publishes and saves; the others, the followers, only train.

Process 0 broadcasts where training starts, then every batch, and at last an empty message.
"""

from __future__ import annotations

import json
from pathlib import Path

from grpo_core.config import GrpoConfig
from grpo_core.errors import CheckpointError, ModelError
from grpo_core.ledger import spans
from grpo_core.ledger.recorder import Recorder, recording
from grpo_core.schedule.accounting.events import process_name, tell_account
from grpo_core.schedule.buffer.batch_file import decode_batch, encode_batch
from grpo_core.schedule.cores import own_torch_threads
from grpo_core.schedule.interrupt import stop_on_signals
from grpo_core.training.checkpoint.checkpoint import Checkpoint, read_checkpoint, restore_trainer
from grpo_core.training.distributed.ranks import Ranks
from grpo_core.training.trainer import Trainer
from grpo_core.types import Batch

_OVER = b""


def send_start(ranks: Ranks, trainer: Trainer, checkpoint: Checkpoint | None) -> None:
    """Tell the followers where to start: at ``checkpoint``, which they read themselves, or at the base model."""
    start = {
        "base_fingerprint": trainer.base_fingerprint,
        "checkpoint": None if checkpoint is None else str(checkpoint.path),
    }
    ranks.broadcast(json.dumps(start).encode())


def send_batch(ranks: Ranks, batch: Batch) -> None:
    """Let the followers train on ``batch``."""
    if ranks.size > 1:
        ranks.broadcast(encode_batch(batch))


def send_end(ranks: Ranks) -> None:
    """Let the followers return."""
    ranks.broadcast(_OVER)


def follow(trainer: Trainer, config: GrpoConfig) -> int:
    """Train on this process's share of every batch that process 0 sends. Returns the number of steps.

    Raises:
        ModelError: the base model here differs from that of process 0.
        CheckpointError: the checkpoint cannot be read here, or does not fit.
        LostProcessError: process 0, or another one, has died.
    """
    ranks = trainer.ranks
    assert ranks.rank > 0
    # A signal stops process 0, which makes a last step, saves it and lets the others return.
    with (
        own_torch_threads(config, ranks.size),
        stop_on_signals(config.schedule.stop_grace_s),
        recording(process_name(ranks.rank), "train") as recorder,
    ):
        start = json.loads(ranks.broadcast(_OVER))
        own = trainer.base_fingerprint
        if start["base_fingerprint"] != own:
            raise ModelError(
                f"process {ranks.rank}: model {config.model.name!r} is {own} here and {start['base_fingerprint']} in "
                "process 0; give all of them the same files"
            )
        if start["checkpoint"] is not None:
            restore_trainer(trainer, _read_shared(Path(start["checkpoint"]), ranks.rank))
        num_steps = 0
        while content := ranks.broadcast(_OVER):
            _follow_step(trainer, content, recorder)
            num_steps += 1
    return num_steps


def _follow_step(trainer: Trainer, content: bytes, recorder: Recorder) -> None:
    with spans.STORE:
        batch = decode_batch(content, "from process 0")
    trainer.step(batch)
    (account,) = recorder.cut()
    tell_account(trainer.ranks, account)


def _read_shared(path: Path, rank: int) -> Checkpoint:
    try:
        return read_checkpoint(path)
    except CheckpointError as error:
        raise CheckpointError(f"process {rank}: {error}; GRPO_HOME must be a folder that all processes see") from error
