"""The seeds of a batch. Each is derived from the run's seed and its own place in the batch only.

So a resumed run, or another machine, draws the same at the same place, whatever was sampled before.
"""

from __future__ import annotations

import numpy as np

from grpo_core.rollout.play.episode import Episode

_OPENING, _EPISODE, _REFILL_OPENING, _REFILL_EPISODE = range(4)  # disjoint streams of random numbers


def environment_seed(run_seed: int, index: int, group: int, refill: int) -> int:
    """The seed of starting state ``group`` of batch ``index``, or of its ``refill``-th replacement.

    A ``refill`` from 1 on gives a seed that no starting state without one has.
    """
    return _seed(run_seed, index, group, *_if_any(refill))


def turn_seed(run_seed: int, index: int, episode: Episode, place: int) -> int:
    """Of the answer to observation ``place`` in the next round of ``episode``. Openings are the same in every batch."""
    if episode.is_opening:
        where = (_REFILL_OPENING, episode.refill) if episode.refill else (_OPENING,)
        member = (episode.group,)
    else:
        where = (_REFILL_EPISODE, index, episode.refill) if episode.refill else (_EPISODE, index)
        member = (episode.group, episode.sample)
    # Retries add a number, so that no two attempts share a seed.
    return _seed(run_seed, *where, *member, *_if_any(episode.attempt), episode.num_rounds, place)


def _if_any(number: int) -> tuple[int, ...]:
    return (number,) if number else ()


def _seed(*parts: int) -> int:
    """A seed that depends on every part."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0])
