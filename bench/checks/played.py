"""What a run played, sampled and trained on, seen from outside; and what of it does not match.

The environments, the engine and the trainer are watched at their borders. No counter of the product is read.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest

from .letters import FIRST_ANSWER, WRITERS, LetterFactory, Letters

if TYPE_CHECKING:
    from grpo_core.home import Home
    from grpo_core.rollout.protocol import Outcome
    from grpo_core.schedule.stack import LocalStack
    from grpo_core.training.forward.packing import PackedBatch
    from grpo_core.training.objective.objective import LossTerms
    from grpo_core.types import Batch, Completion, StepMetrics


@dataclass
class Played:
    """One run of letters."""

    letters: list[Letters] = field(default_factory=list)  # every episode that began
    sampled: list[Completion] = field(default_factory=list)  # as the engine returned them
    batches: list[Batch] = field(default_factory=list)  # as the trainer got them
    trained: list[tuple[int, ...]] = field(default_factory=list)  # per completion, the tokens that have a loss
    reported: list[str] = field(default_factory=list)  # why an episode was given up
    texts: dict[bytes, str] = field(default_factory=dict)  # of what was sampled, by its ids

    def text(self, completion: Completion) -> str:
        """What ``completion`` says; nothing if it was never sampled."""
        return self.texts.get(completion.completion_ids.tobytes(), "")


def play_letters(stack: LocalStack, home: Home, *, loses_every: int = 0) -> Played:
    """Train ``stack`` on letters, and watch."""
    from grpo_core.rollout.play.build import build_collector
    from grpo_core.telemetry import open_telemetry

    from .whole_runs import train_in_test

    factory, played = LetterFactory(loses_every), Played()
    collector = build_collector(stack.config, home, stack.engine, stack.tokenizer, factory)
    watched = replace(stack, collector=collector)
    with pytest.MonkeyPatch.context() as patch, open_telemetry(stack.config, home) as telemetry:
        _watch(watched, played, patch)
        train_in_test(watched, telemetry)
    played.letters = factory.begun
    path = home.events / f"{stack.config.run}.jsonl"
    events = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    played.reported = [event["error"] for event in events if event["kind"] == "episode_failed"]
    played.texts = {
        item.completion_ids.tobytes(): stack.tokenizer.decode(item.completion_ids) for item in played.sampled
    }
    return played


def _watch(stack: LocalStack, played: Played, patch: pytest.MonkeyPatch) -> None:
    """Record what passes the borders of ``stack``'s engine and trainer."""
    engine_step, trainer_step = stack.engine.step, stack.trainer.step

    def sample() -> list[Outcome]:
        outcomes = engine_step()
        played.sampled += [outcome.result for outcome in outcomes if not isinstance(outcome.result, Exception)]
        return outcomes

    def learn(batch: Batch) -> StepMetrics:
        played.batches.append(batch)
        return trainer_step(batch)

    def see(packed: PackedBatch, terms: LossTerms) -> None:
        by_completion: dict[int, list[int]] = defaultdict(list)
        for member, token in zip(packed.members.tolist(), packed.targets.tolist(), strict=True):
            by_completion[member].append(token)
        assert len(terms.logprobs) == len(packed.targets)
        played.trained += [tuple(tokens) for tokens in by_completion.values()]

    patch.setattr(stack.engine, "step", sample)
    patch.setattr(stack.trainer, "step", learn)
    patch.setattr(stack.trainer, "_on_micro_batch", see)


def num_identical(played: Played) -> int:
    """First answers in the batches that repeat another one.

    All first prompts are the same, so this holds siblings, writers, groups and batches against each other. By chance
    two are equal about never: ``tests/bench/checks`` has the probability.
    """
    answers = Counter(turns[0].completion_ids.tobytes() for turns in _turns(played))
    return sum(count - 1 for count in answers.values())


def _turns(played: Played) -> list[tuple[Completion, ...]]:
    """Of each trajectory of the batches."""
    return [trajectory.turns for batch in played.batches for group in batch.groups for trajectory in group.trajectories]


def num_missing(played: Played) -> int:
    """Episodes that began and are neither in a batch, as they were played, nor reported as given up.

    And what is in a batch, or reported, without having been played.
    """
    finished = [letters for letters in played.letters if letters.done]
    expected = Counter(
        (writer, letters.texts(writer), letters.rewards()[writer]) for letters in finished for writer in WRITERS
    )
    found = Counter(
        (trajectory.agent, tuple(map(played.text, trajectory.turns)), trajectory.reward)
        for batch in played.batches
        for group in batch.groups
        for trajectory in group.trajectories
    )
    given_up = [letters for letters in played.letters if not letters.done]
    unreported = [letters for letters in given_up if not any(letters.lost_as in error for error in played.reported)]
    return _num_different(expected, found) + len(unreported) + abs(len(played.reported) - len(given_up))


def num_wrong_lengths(played: Played, *, max_tokens: int, stop_ids: Sequence[int]) -> int:
    """Completions that ended too early, and those whose tokens with a loss are not the ones that were chosen."""
    cut = [item for item in played.sampled if not _is_whole(item, played.text(item), max_tokens, stop_ids)]
    chosen = Counter(tuple(item.completion_ids[item.completion_mask].tolist()) for item in played.sampled)
    return len(cut) + _num_different(chosen, Counter(played.trained))


def _is_whole(completion: Completion, text: str, max_tokens: int, stop_ids: Sequence[int]) -> bool:
    """Whether ``completion`` ends where it may: a free one with a stop token, or at ``max_tokens``."""
    ids: list[int] = completion.completion_ids.tolist()
    if completion.allowed_ids is not None:
        return text.count("\n") == len(FIRST_ANSWER)
    return not set(stop_ids).intersection(ids[:-1]) and (ids[-1] in stop_ids or len(ids) == max_tokens)


def _num_different(expected: Counter[Any], found: Counter[Any]) -> int:
    """How many entries of one are not in the other, the larger of both ways."""
    return max((expected - found).total(), (found - expected).total())
