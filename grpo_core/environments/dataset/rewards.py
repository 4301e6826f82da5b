"""The rewards of a batch: every function is called once for all of its answers, and their weighted sum counts."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from grpo_core.environments.dataset.calls import Scores, score
from grpo_core.environments.dataset.reward_function import Answer, RewardFunction
from grpo_core.types import RewardFunctionStats

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Scored:
    """``reward`` is the weighted sum of the ``scores`` that are not None, as in TRL; None where all are."""

    reward: float | None
    scores: Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class BatchRewards:
    """Scores of the answers, in their order, and what each function took."""

    answers: tuple[Scored, ...]
    functions: tuple[RewardFunctionStats, ...]


class Rewards:
    """Several reward functions. Those that wait (async) run beside the others, which follow one another."""

    def __init__(self, functions: Sequence[RewardFunction], timeout_s: float) -> None:
        self._functions = functions
        self._timeout_s = timeout_s
        self._told: set[str] = set()  # functions of which a retry was told
        self._has_named_a_row = False  # that no function scores

    def score(self, answers: Sequence[Answer]) -> BatchRewards:
        """Call every function for all of ``answers``.

        Raises:
            EnvironmentCodeError: as ``calls.score``.
        """
        waiting = [function for function in self._functions if function.is_async]
        with ThreadPoolExecutor(max_workers=max(len(waiting), 1), thread_name_prefix="rewards") as threads:
            begun = {one.name: threads.submit(score, one, answers, self._timeout_s) for one in waiting}
            found = {one.name: score(one, answers, self._timeout_s) for one in self._functions if not one.is_async}
            found |= {name: future.result() for name, future in begun.items()}
        self._tell_retries(found)
        scored = tuple(self._scored(found, place) for place in range(len(answers)))
        if not any(scores.failures for scores in found.values()):  # which name their rows
            self._tell_unscored(answers, scored)
        return BatchRewards(
            scored,
            tuple(
                RewardFunctionStats(one.name, found[one.name].duration_s, len(found[one.name].failures))
                for one in self._functions
            ),
        )

    def _tell_retries(self, found: Mapping[str, Scores]) -> None:
        """Once for a function: one that compares the answers of a batch gives others when it gets them alone."""
        for name, scores in found.items():
            if scores.retried is not None and name not in self._told:
                self._told.add(name)
                logger.warning(
                    "reward %r failed on a whole batch (%s), so it is called with one answer at a time, which changes "
                    "the rewards of one that compares answers; fix it, or raise environment.data.reward_timeout_s",
                    name,
                    scores.retried,
                )

    def _tell_unscored(self, answers: Sequence[Answer], scored: Sequence[Scored]) -> None:
        """Once: a row without any reward looks like one whose answers are all equally good."""
        rows = {answer.row for answer in answers}
        rows -= {answer.row for answer, each in zip(answers, scored, strict=True) if each.reward is not None}
        if rows and not self._has_named_a_row:
            self._has_named_a_row = True
            logger.warning(
                "no reward function scores row %d: all of its completions got None (%s), so they teach nothing; "
                "return a number",
                min(rows),
                ", ".join(repr(function.name) for function in self._functions),
            )

    def _scored(self, found: Mapping[str, Scores], place: int) -> Scored:
        scores = {function.name: found[function.name].values[place] for function in self._functions}
        given = [one.weight * value for one in self._functions if (value := scores[one.name]) is not None]
        return Scored(sum(given) if given else None, scores)
