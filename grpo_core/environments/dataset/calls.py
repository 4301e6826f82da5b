"""Calls of reward functions: each with a time limit, batched where the function is, and row by row where that fails."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from grpo_core.environments.dataset.reward_function import Answer, RewardFunction
from grpo_core.environments.user_code import described
from grpo_core.errors import EnvironmentCodeError, GrpoError

logger = logging.getLogger(__name__)

MAX_HANGS = 3
"""Calls of one function that may hang in one batch: their threads cannot be ended. Of coroutines any number may, since
they are cancelled."""

_GRACE_S = 5.0
"""A coroutine ends itself at its limit; one that blocks its loop is left behind so much later."""


class _CallError(Exception):
    """Why a call gave no usable value, on one line."""


class _HangError(_CallError):
    pass


_Result = float | _CallError | None


@dataclass(frozen=True, slots=True)
class Scores:
    """What one function gave: a value per answer, None where it gave none or failed. ``failures`` name their rows.

    ``retried``: why the call with all answers failed, so that the function was called with each of them alone.
    """

    values: list[float | None]
    failures: tuple[str, ...]
    duration_s: float
    retried: str | None = None


def score(function: RewardFunction, answers: Sequence[Answer], timeout_s: float) -> Scores:
    """Call ``function`` on ``answers``. Where a batched call fails, each answer is tried on its own.

    Raises:
        EnvironmentCodeError: it failed for every answer, or hung too often: a retry would fail again.
    """
    began_s = time.perf_counter()
    results, retried = _results(function, answers, timeout_s)
    failed = [
        (answer, result) for answer, result in zip(answers, results, strict=True) if isinstance(result, _CallError)
    ]
    failures = tuple(f"reward {function.name!r} failed on row {answer.row}: {error}" for answer, error in failed)
    if len(failed) == len(answers):
        raise EnvironmentCodeError(f"{failures[0]}; it failed for every answer of the batch; fix it")
    for failure in dict.fromkeys(failures):  # siblings have the same row
        logger.warning("%s; it gives that answer no reward", failure)
    values: list[float | None] = [None if isinstance(result, _CallError) else result for result in results]
    return Scores(values, failures, time.perf_counter() - began_s, retried)


def _results(function: RewardFunction, answers: Sequence[Answer], timeout_s: float) -> tuple[list[_Result], str | None]:
    """A result per answer; and why the call with all of them failed, if it did."""
    retried = None
    if function.is_batched:
        try:
            found = _call(function, function.arguments(answers), timeout_s)
            return [_number(value) for value in _of_length(found, len(answers))], None
        except _CallError as error:
            retried = str(error)
            logger.info("reward %s: %s; trying each answer alone", function.name, error)
    each_alone = _together if function.is_async else _row_by_row
    return each_alone(function, answers, timeout_s), retried


def _row_by_row(function: RewardFunction, answers: Sequence[Answer], timeout_s: float) -> list[_Result]:
    results: list[_Result] = []
    num_hangs = 0
    for answer in answers:
        try:
            results.append(_value(function, _call(function, _alone(function, answer), timeout_s)))
        except _CallError as error:
            results.append(error)
            num_hangs += isinstance(error, _HangError)
            if num_hangs == MAX_HANGS:
                raise EnvironmentCodeError(
                    f"reward {function.name!r} failed on row {answer.row}: {error}; {num_hangs} calls of it hang "
                    "and cannot be ended: fix it, or raise environment.data.reward_timeout_s"
                ) from None
    return results


def _together(function: RewardFunction, answers: Sequence[Answer], timeout_s: float) -> list[_Result]:
    """One coroutine an answer, all at once. Those that take longer are cancelled."""

    async def one(answer: Answer) -> _Result:
        try:
            return _value(function, await asyncio.wait_for(function.call(**_alone(function, answer)), timeout_s))
        except TimeoutError:
            return _HangError(_hang(timeout_s))
        except _CallError as error:
            return error
        except Exception as error:  # the user's code may raise anything
            return _CallError(described(error))

    async def everyone() -> list[_Result]:
        return list(await asyncio.gather(*map(one, answers)))

    try:
        return _in_thread(lambda: asyncio.run(everyone()), timeout_s + _GRACE_S)
    except _HangError:
        raise EnvironmentCodeError(
            f"reward {function.name!r} does not end at its limit of {timeout_s:g} s: it blocks its event loop, so it "
            "cannot be cancelled; await what it waits for, or write it without async"
        ) from None


def _alone(function: RewardFunction, answer: Answer) -> dict[str, Any]:
    """The arguments of a call with one answer."""
    return function.arguments([answer]) if function.is_batched else function.single_arguments(answer)


def _value(function: RewardFunction, found: Any) -> float | None:
    """What a call with one answer gave."""
    return _number(_of_length(found, 1)[0] if function.is_batched else found)


def _call(function: RewardFunction, arguments: dict[str, Any], timeout_s: float) -> Any:
    if not function.is_async:
        return _in_thread(lambda: function.call(**arguments), timeout_s)

    async def bounded() -> Any:
        try:
            return await asyncio.wait_for(function.call(**arguments), timeout_s)
        except TimeoutError:
            raise _HangError(_hang(timeout_s)) from None

    return _in_thread(lambda: asyncio.run(bounded()), timeout_s + _GRACE_S)


def _in_thread(work: Callable[[], Any], timeout_s: float) -> Any:
    """What ``work`` returns, from a thread of its own: one that hangs is left behind, and ends with the process.

    Raises:
        _CallError: it raised, or took longer.
    """
    result: list[Any] = []
    error: list[BaseException] = []

    def run() -> None:
        try:
            result.append(work())
        except BaseException as raised:  # SystemExit of the user's code, too
            error.append(raised)

    thread = threading.Thread(target=run, name="reward", daemon=True)
    thread.start()
    thread.join(timeout_s)
    if result:
        return result[0]
    if not error:
        raise _HangError(_hang(timeout_s))
    if isinstance(error[0], GrpoError | _CallError):
        raise error[0]
    raise _CallError(described(error[0])) from error[0]


def _hang(timeout_s: float) -> str:
    return f"no answer within {timeout_s:g} s"


def _of_length(found: Any, num_answers: int) -> Sequence[Any]:
    try:
        values = list(found)
    except TypeError:
        raise _CallError(f"it returned a {type(found).__name__}, not a list") from None
    if len(values) != num_answers:
        raise _CallError(f"it returned {len(values)} values for {num_answers} completions")
    return values


def _number(value: Any) -> float | None:
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise _CallError(f"it returned {value!r:.60}, which is no number") from None
    if not math.isfinite(number):
        raise _CallError(f"it returned {number}; give a finite number, or None for no opinion")
    return number
