"""A constraint whose failures are its own request's: the requests beside it go on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from grpo_core.errors import ConstraintError, GrpoError
from grpo_core.rollout.constraints.lines import Constraint, LineConstraint
from grpo_core.rollout.constraints.regex import RegexConstraint
from grpo_core.types import Int32

T = TypeVar("T")


class GuardedCursor:
    """Implements ``ConstraintCursor`` by a cursor of ``constraint``, for a model with ids below ``vocab_size``.

    Whatever goes wrong in the constraint, also in one of a user, is a ConstraintError, and ``allowed`` never returns an
    id that the model does not have: compiled code would read foreign memory for it.
    """

    def __init__(self, constraint: Constraint, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._is_users = not isinstance(constraint, LineConstraint | RegexConstraint)  # the others' ids are ascending
        self._num_tokens = 0
        self._cursor = self._own(constraint.start)

    @property
    def finished(self) -> bool:
        return self._own(lambda: self._cursor.finished)

    def allowed(self) -> Sequence[int] | Int32:
        """Ids that may come next, ascending, at least one.

        Raises:
            ConstraintError: there is none, or one is not the model's, or they are not ascending, or the constraint
                fails.
        """
        return self._own(self._checked)

    def _checked(self) -> Sequence[int] | Int32:
        ids = self._cursor.allowed()
        if not len(ids):
            raise ConstraintError(
                f"constraint after {self._num_tokens} tokens: no continuation is allowed; give every line an end"
            )
        if ids[0] < 0 or ids[-1] >= self._vocab_size:
            raise ConstraintError(
                f"constraint with token id {ids[0] if ids[0] < 0 else ids[-1]}: the model's ids are 0 to "
                f"{self._vocab_size - 1}; build it with the model's own tokenizer"
            )
        if self._is_users and not _is_ascending(ids):  # so that those between are the model's, too
            raise ConstraintError(
                f"constraint after {self._num_tokens} tokens: its ids are not ascending; sort them, each once"
            )
        return ids

    def advance(self, token: int) -> None:
        """Take ``token``, which ``allowed`` named. Raises ConstraintError for any other."""
        self._own(lambda: self._cursor.advance(token))
        self._num_tokens += 1

    def _own(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except GrpoError:
            raise
        except Exception as error:  # a user's constraint may raise anything
            raise ConstraintError(
                f"constraint after {self._num_tokens} tokens: {type(error).__name__}: "
                f"{str(error).partition(chr(10))[0]}; fix the constraint"
            ) from error


def _is_ascending(ids: Sequence[int] | Int32) -> bool:
    array = np.asarray(ids)
    return bool((array[1:] > array[:-1]).all())
