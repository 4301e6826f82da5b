"""Which batches of an interrupted run can still be trained on, when it goes on from its checkpoint.

Those that the checkpoint's version or an older one sampled can. One that a newer version sampled can too, where that
version will be made again as it was: by the same training, from the same batches, all of which are there. On a CPU
that is bit for bit; on a GPU up to rounding, and ``sampling_logprobs`` are those of the version that did sample.
"""

from __future__ import annotations

import logging
from pathlib import Path

from grpo_core.errors import StoredBatchError
from grpo_core.schedule.batch_file import batch_file_name, read_batch

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
    newest_version = first_step  # that there is, or that will be made again
    for path in sorted(folder.glob("batch-*.arrow")):
        try:
            batch = read_batch(path)
        except StoredBatchError:
            dropped.append(f"{path.name} (cannot be read)")
            continue
        if path.name != batch_file_name(batch.index):
            dropped.append(f"{path.name} (holds batch {batch.index})")
        elif batch.index < first_step:
            continue  # the checkpoint holds what it taught; the run ended before this was tidied up
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
