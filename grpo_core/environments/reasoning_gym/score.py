"""The reward of a task: the package's own score of what the policy answered."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

from grpo_core.environments.user_code import described

logger = logging.getLogger(__name__)


class Score:
    """Calls ``score_answer`` of the task ``name``. With a ``tag``, an answer is the text between its last pair."""

    def __init__(
        self, name: str, score_answer: Callable[[str | None, Mapping[str, Any]], float], tag: str | None
    ) -> None:
        self._name = name
        self._score_answer = score_answer
        self._tag = tag
        self._has_warned = False

    def __call__(self, completions: Sequence[Any], entry: Sequence[Mapping[str, Any]]) -> list[float]:
        """A score for each of ``completions``, texts or lists of messages, as an answer to its ``entry``."""
        return [
            self._score(self._answer(completion), question)
            for completion, question in zip(completions, entry, strict=True)
        ]

    def _score(self, answer: str | None, entry: Mapping[str, Any]) -> float:
        try:
            return self._score_answer(answer, entry)
        except Exception as error:  # some tasks parse an answer without a guard
            if not self._has_warned:
                logger.warning("%s cannot read an answer, which earns 0: %s; said once", self._name, described(error))
            self._has_warned = True
            return 0.0

    def _answer(self, completion: Any) -> str | None:
        """What counts as the answer. None where the tag is missing."""
        text: str = completion if isinstance(completion, str) else completion[-1]["content"]
        if self._tag is None:
            return text.strip()
        package: Any = import_module("reasoning_gym.utils")
        return package.extract_answer(text, tag_name=self._tag)
