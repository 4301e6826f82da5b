"""Calls of reward functions: each with a time limit, batched where the function is, and row by row where that fails."""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from grpo_core.environments.dataset.call_threads import CallThread, LoopThread, StillRunningError
from grpo_core.environments.dataset.reward_function import Answer, RewardFunction
from grpo_core.environments.user_code import described, number_of
from grpo_core.errors import EnvironmentCodeError, GrpoError

logger = logging.getLogger(__name__)

MAX_HANGS = 3
"""Calls of one function that may hang in one batch: their threads cannot be ended. Of coroutines any number may, since
they are cancelled."""

_call_thread, _loop_thread = CallThread(), LoopThread()
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
            return _value(function, await _bounded(lambda: function.call(**_alone(function, answer)), timeout_s))
        except _CallError as error:
            return error
        except Exception as error:  # the user's code may raise anything
            return _CallError(described(error))

    async def everyone() -> list[_Result]:
        return list(await asyncio.gather(*map(one, answers)))

    try:
        return _in_loop(everyone(), timeout_s)
    except _HangError:
        raise EnvironmentCodeError(
            f"reward {function.name!r} does not end at its limit of {timeout_s:g} s: an async function blocks its "
            "event loop, so it cannot be cancelled; await what it waits for, or write it without async"
        ) from None


def _alone(function: RewardFunction, answer: Answer) -> dict[str, Any]:
    """The arguments of a call with one answer."""
    return function.arguments([answer]) if function.is_batched else function.single_arguments(answer)


def _value(function: RewardFunction, found: Any) -> float | None:
    """What a call with one answer gave."""
    return _number(_of_length(found, 1)[0] if function.is_batched else found)


def _call(function: RewardFunction, arguments: dict[str, Any], timeout_s: float) -> Any:
    """What a call gives, with all that a generator yields.

    Raises:
        _CallError: it raised, or took longer.
    """
    if function.is_async:
        return _in_loop(_bounded(lambda: function.call(**arguments), timeout_s), timeout_s)

    def work() -> Any:
        try:
            found = function.call(**arguments)
            return list(found) if isinstance(found, Iterator) else found
        except (SystemExit, KeyboardInterrupt) as error:
            raise _CallError(described(error)) from error

    found = _outcome(lambda: _call_thread.run(work, timeout_s), timeout_s)
    if inspect.iscoroutine(found):  # a function that hands on what an async one gives
        return _in_loop(_bounded(lambda: found, timeout_s), timeout_s)
    return found


async def _bounded(start: Callable[[], Awaitable[Any]], timeout_s: float) -> Any:
    try:
        return await asyncio.wait_for(_without_exit(start), timeout_s)
    except TimeoutError:
        raise _HangError(_hang(timeout_s)) from None


async def _without_exit(start: Callable[[], Awaitable[Any]]) -> Any:
    """What ``start`` gives. What would end the event loop is an error of this call."""
    try:
        return await start()
    except (SystemExit, KeyboardInterrupt) as error:
        raise _CallError(described(error)) from error


def _in_loop(coroutine: Coroutine[Any, Any, Any], timeout_s: float) -> Any:
    return _outcome(lambda: _loop_thread.run(coroutine, timeout_s + _GRACE_S), timeout_s)


def _outcome(run: Callable[[], Any], timeout_s: float) -> Any:
    """What ``run`` returns. Raises as ``_call``."""
    try:
        return run()
    except StillRunningError:
        raise _HangError(_hang(timeout_s)) from None
    except (GrpoError, _CallError):
        raise
    except Exception as error:  # the user's code may raise anything
        raise _CallError(described(error)) from error


def _hang(timeout_s: float) -> str:
    return f"no answer within {timeout_s:g} s"


def _of_length(found: Any, num_answers: int) -> Sequence[Any]:
    if isinstance(found, Mapping | Set | str | bytes):  # lists of something else: keys, letters
        raise _CallError(f"it returned a {type(found).__name__}, not a list")
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
        return number_of(value)
    except ValueError as error:
        raise _CallError(f"it returned {error}; return a finite number, or None for no opinion") from None
