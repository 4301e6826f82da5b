"""The questions of a task as the rows of a data set: each is made when it is asked for, from seed and index."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, lru_cache
from typing import Any, overload

from grpo_core.errors import ConfigError

COLUMNS = ("prompt", "answer", "metadata", "entry")
"""``entry`` is the package's own, which scores an answer."""
_MAX_KEPT = 4096


@contextmanager
def drawing_from(seed: str) -> Iterator[None]:
    """Within it, ``random``'s own stream begins at ``seed``: a few tasks draw from it, beside their generator."""
    before = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(before)


class _Rows(Sequence[Mapping[str, Any]], ABC):
    """Rows that are made when they are asked for."""

    @overload
    def __getitem__(self, index: int) -> Mapping[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[Mapping[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> Mapping[str, Any] | list[Mapping[str, Any]]:
        if isinstance(index, slice):
            return [self._row(place) for place in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._row(index)

    @abstractmethod
    def _row(self, index: int) -> Mapping[str, Any]: ...


class Questions(_Rows):
    """The questions of ``task``, a ``ProceduralDataset``."""

    def __init__(self, task: Any) -> None:
        self._task = task
        self._made = lru_cache(_MAX_KEPT)(self._make)

    def __len__(self) -> int:
        return len(self._task)

    def _row(self, index: int) -> Mapping[str, Any]:
        return self._made(index)

    def _make(self, index: int) -> Mapping[str, Any]:
        entry = self._entry(index)
        return {
            "prompt": entry["question"],
            "answer": entry["answer"],
            "metadata": entry.get("metadata", {}),
            "entry": entry,
        }

    def _entry(self, index: int) -> dict[str, Any]:
        with drawing_from(f"{self._task.seed} {index}"):
            return self._task[index]

    @cached_property
    def prompts(self) -> frozenset[str]:
        """The prompts of all questions, which makes them all."""
        return frozenset(self._entry(index)["question"] for index in range(len(self)))


class HeldOutQuestions(_Rows):
    """The questions of ``others`` that are not among ``training``, each once.

    Most tasks seed question i with ``seed + i``, so ``others`` begin behind ``training``; where there are few
    questions, the same one still comes up in both.
    """

    def __init__(self, training: Questions, others: Questions) -> None:
        self._training = training
        self._others = others
        self._indices: list[int] = []
        self._asked: set[str] = set()
        self._next = 0

    def __len__(self) -> int:
        return len(self._others)

    def _row(self, index: int) -> Mapping[str, Any]:
        while len(self._indices) <= index:
            self._find()
        return self._others[self._indices[index]]

    def _find(self) -> None:
        """One more question.

        Raises:
            ConfigError: there is none.
        """
        while self._next < len(self._others):
            place, self._next = self._next, self._next + 1
            prompt = self._others[place]["prompt"]
            if prompt not in self._training.prompts and prompt not in self._asked:
                self._indices.append(place)
                self._asked.add(prompt)
                return
        raise ConfigError(
            f"evaluation.num_questions: the task has only {len(self._indices)} questions that are not among the "
            f"{len(self._training)} of training; ask fewer, or make environment.settings wider"
        )
