"""Seven faults at once, of which the gates of the first version showed none. Each phase that they touch must be red."""

from __future__ import annotations

import pytest

from bench.faults.fault import Fault
from bench.faults.phase2 import later_adapters_never_merged, prefix_cache_survives_a_swap
from bench.faults.phase3_steps import half_without_loss, two_scoring_passes, update_skipped
from bench.faults.phase4 import longest_episode_dropped, siblings_share_a_seed


def _plant_all(patch: pytest.MonkeyPatch) -> None:
    later_adapters_never_merged(patch)
    prefix_cache_survives_a_swap(patch)
    update_skipped(patch)
    half_without_loss(patch)
    two_scoring_passes(patch)
    longest_episode_dropped(patch)
    siblings_share_a_seed(patch)


def seven_at_once_in_rollouts(patch: pytest.MonkeyPatch) -> None:
    """Later adapters never merged, prompts kept over a swap, and five faults of training and schedule beside them."""
    _plant_all(patch)


def seven_at_once_in_training(patch: pytest.MonkeyPatch) -> None:
    """The update skipped, half of each answer without loss, two more passes, and four faults of the other rooms."""
    _plant_all(patch)


def seven_at_once_in_the_schedule(patch: pytest.MonkeyPatch) -> None:
    """The longest episode dropped, all siblings one sample, and five faults of rollouts and training beside them."""
    _plant_all(patch)


FAULTS = (
    Fault(2, ("versions_not_reached", "stale_answers"), seven_at_once_in_rollouts),
    Fault(
        3,
        ("tokens_without_loss", "weights_update_error", "forward_passes_per_micro_batch"),
        seven_at_once_in_training,
    ),
    Fault(4, ("identical_siblings", "episodes_missing"), seven_at_once_in_the_schedule),
)
