"""The seeds of everything that is drawn in a batch: each is made from the run's seed and its own place, and no other.

So a place that is played again in a resumed run, or elsewhere, draws the same, whatever was played before it.
"""

from __future__ import annotations

import numpy as np

from grpo_core.rollout.play.episode import Episode

_OPENING, _EPISODE, _REFILL_OPENING, _REFILL_EPISODE = range(4)  # streams of random numbers that never meet


def environment_seed(run_seed: int, index: int, group: int, refill: int) -> int:
    """Of the starting state in the place ``group`` of batch ``index``: the first one, or its ``refill``-th replacement.

    From 1 on, ``refill`` makes another seed than any without it.
    """
    return _seed(run_seed, index, group, *_if_any(refill))


def turn_seed(run_seed: int, index: int, episode: Episode, place: int) -> int:
    """Of the answer to the observation at ``place`` in the coming round of ``episode``. Openings are the same in every
    batch."""
    if episode.is_opening:
        where = (_REFILL_OPENING, episode.refill) if episode.refill else (_OPENING,)
        member = (episode.group,)
    else:
        where = (_REFILL_EPISODE, index, episode.refill) if episode.refill else (_EPISODE, index)
        member = (episode.group, episode.sample)
    # An attempt's seeds are made from more numbers, so that they are not another's.
    return _seed(run_seed, *where, *member, *_if_any(episode.attempt), episode.num_rounds, place)


def _if_any(number: int) -> tuple[int, ...]:
    return (number,) if number else ()


def _seed(*parts: int) -> int:
    """A seed that depends on every part."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0])
