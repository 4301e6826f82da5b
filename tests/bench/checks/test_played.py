"""What the checks count in a run that is made up: one writer's words are the ids of the tokens."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bench.checks.letters import FIRST_ANSWER, WRITERS, LetterFactory
from bench.checks.played import Played, num_identical, num_missing, num_wrong_lengths
from grpo_core.types import Batch, Completion, Group, RolloutStats, Trajectory

STOP = 0


def completion(*ids: int) -> Completion:
    tokens = np.array(ids, dtype=np.int32)
    return Completion(
        prompt_ids=np.array([9], dtype=np.int32),
        completion_ids=tokens,
        completion_mask=np.ones(len(ids), dtype=np.bool_),
        sampling_logprobs=np.full(len(ids), -1.0, dtype=np.float32),
        policy_version=0,
        temperature=1.0,
        finish_reason="stop",
    )


def played_well(num_lost: int = 0) -> Played:
    """Two siblings of two writers with an answer per turn, and ``num_lost`` episodes that were reported."""
    factory, played = LetterFactory(), Played()
    siblings: dict[str, list[Trajectory]] = {writer: [] for writer in WRITERS}
    for sample in range(2):
        letters = factory()
        letters.reset(0)
        turns = {
            writer: [completion(1 + turn, 10 * sample + place, STOP) for turn in range(2)]
            for place, writer in enumerate(WRITERS, start=1)
        }
        for turn in range(2):
            letters.step({writer: text_of(of[turn]) for writer, of in turns.items()})
        for writer, of in turns.items():
            siblings[writer].append(Trajectory(f"0-{writer}", writer, tuple(of), letters.rewards()[writer]))
            played.sampled += of
    for _ in range(num_lost):
        letters = factory()
        letters.restore({})
        played.reported.append(f"LetterLostError: {letters.lost_as}")
    groups = tuple(Group(f"0-{writer}", tuple(of)) for writer, of in siblings.items())
    played.letters = factory.begun
    played.batches = [Batch(0, 0, groups, RolloutStats(1.0, 0, 0, 0, 0))]
    played.trained = [tuple(each.completion_ids.tolist()) for each in played.sampled]
    played.texts = {each.completion_ids.tobytes(): text_of(each) for each in played.sampled}
    return played


def text_of(item: Completion) -> str:
    return " ".join(map(str, item.completion_ids.tolist()))


def change_first_group(played: Played, *trajectories: Trajectory) -> None:
    batch = played.batches[0]
    played.batches = [replace(batch, groups=(replace(batch.groups[0], trajectories=trajectories), *batch.groups[1:]))]


def test_nothing_is_counted_in_a_run_that_is_whole() -> None:
    played = played_well(num_lost=1)
    assert num_identical(played) == 0
    assert num_missing(played) == 0
    assert num_wrong_lengths(played, max_tokens=8, stop_ids=(STOP,)) == 0


def test_equal_first_answers_are_counted() -> None:
    played = played_well()
    first, second = played.batches[0].groups[0].trajectories
    change_first_group(played, first, replace(second, turns=first.turns))
    assert num_identical(played) == 1


def test_episodes_are_missed() -> None:
    dropped, swapped, silent, invented = played_well(), played_well(), played_well(num_lost=1), played_well()
    change_first_group(dropped, dropped.batches[0].groups[0].trajectories[0])
    first, second = swapped.batches[0].groups[0].trajectories
    change_first_group(swapped, replace(first, reward=second.reward), replace(second, reward=first.reward))
    silent.reported.clear()
    invented.reported.append("LetterLostError: letter 7 is lost")
    assert [num_missing(run) > 0 for run in (dropped, swapped, silent, invented)] == [True] * 4


def test_lengths_are_wrong_where_tokens_lack_a_loss_or_an_answer_was_cut() -> None:
    left_out, shortened, cut = played_well(), played_well(), played_well()
    left_out.trained.pop()
    shortened.trained[0] = shortened.trained[0][:1]
    cut.sampled[0] = completion(1, 2)
    cut.trained[0] = (1, 2)
    assert [num_wrong_lengths(run, max_tokens=8, stop_ids=(STOP,)) for run in (left_out, shortened, cut)] == [1, 1, 1]


def test_first_answers_repeat_by_chance_about_never() -> None:
    """Were each word one of a few that the policy likes: a thousand answers would still all differ."""
    num_likely_words = len(FIRST_ANSWER[0]) // 2
    chance = 1000**2 / 2 * num_likely_words ** -len(FIRST_ANSWER)
    assert chance < 1e-9
