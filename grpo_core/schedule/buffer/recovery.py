"""Which stored batches of an interrupted run can still be trained on when it resumes from a checkpoint.

A batch is usable if the checkpoint's version or an older one sampled it. One from a newer version is usable, too, if
resumed training will produce that version again: the same training on the same batches, all of which are stored. On a
CPU the version is then the same bit for bit; on a GPU up to rounding, and ``sampling_logprobs`` stay those of the
sampler.
"""

from __future__ import annotations

import logging
from pathlib import Path

from grpo_core.errors import StoredBatchError
from grpo_core.schedule.buffer.batch_file import batch_file_name, read_batch

logger = logging.getLogger(__name__)


def find_usable(
    folder: Path, max_policy_lag_steps: int, num_batches: int, first_step: int, *, repeats_training: bool
) -> set[int]:
    """Indices of the batches in ``folder`` that steps ``first_step`` to ``num_batches - 1`` can train on.

    One warning names the others: damaged ones, those over the lag budget, those of lost versions. With
    ``repeats_training`` off, every version newer than ``first_step`` is lost.
    """
    usable: set[int] = set()
    dropped: list[str] = []
    newest_version = first_step  # that exists, or that training will produce again
    for path in sorted(folder.glob("batch-*.arrow")):
        try:
            batch = read_batch(path)
        except StoredBatchError:
            dropped.append(f"{path.name} (cannot be read)")
            continue
        if path.name != batch_file_name(batch.index):
            dropped.append(f"{path.name} (holds batch {batch.index})")
        elif batch.index < first_step:
            continue  # trained on already; the run ended before it was removed
        elif batch.index >= num_batches:
            dropped.append(f"{path.name} (not of steps {first_step} to {num_batches - 1})")
        elif batch.policy_version > newest_version:
            dropped.append(f"{path.name} (sampled from the lost version {batch.policy_version})")
        elif batch.index - batch.policy_version > max_policy_lag_steps:
            dropped.append(f"{path.name} (over the lag budget)")
        else:
            usable.add(batch.index)
            if repeats_training and batch.index == newest_version:
                newest_version += 1
    if dropped:
        logger.warning("dropped %d stored batches, to be collected again: %s", len(dropped), ", ".join(dropped))
    return usable
