from __future__ import annotations

import itertools

from grpo_core.rollout.play.episode import Episode
from grpo_core.rollout.play.seeds import environment_seed, turn_seed
from tests.grpo_core.rollout.play.duel import Duel


def test_no_two_places_have_the_same_seed() -> None:
    """Of any batch, replacement, attempt, round or agent. Numbers that are 0 count as much as others."""
    some = range(4)
    environments = [environment_seed(7, *where) for where in itertools.product(some, some, some)]
    assert len(set(environments)) == len(environments)

    episodes = [
        Episode(Duel(), group, sample, {}, refill, is_opening, attempt, num_rounds)
        for group, sample, refill, attempt, num_rounds in itertools.product(some, some, some, range(3), some)
        for is_opening in (False, True)
        if sample == 0 or not is_opening
    ]
    turns = [
        turn_seed(7, index, episode, place)
        for episode in episodes
        for index in (some if not episode.is_opening else (0,))
        for place in some
    ]
    assert len(set(turns)) == len(turns)
    assert turn_seed(7, 0, episodes[1], 0) == turn_seed(7, 5, episodes[1], 0)  # an opening's
