"""Messages to and from vLLM's process: how to sample or score a request, and its record. Plain data only."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from grpo_core.errors import ConstraintError, GrpoError, SamplingError
from grpo_core.model.tokenizer import Tokenizer
from grpo_core.rollout.constraints.lines import Constraint, LineConstraint
from grpo_core.rollout.constraints.regex import RegexConstraint, compile_regex
from grpo_core.rollout.protocol import SamplingParams
from grpo_core.types import Bool, Completion, Float32, Int32, RaggedIds

ARGS_KEY = "grpo"  # in the extra_args of vLLM's sampling parameters
_ERRORS: dict[str, type[GrpoError]] = {error.__name__: error for error in (SamplingError, ConstraintError)}


@dataclass(frozen=True, slots=True)
class SamplingTask:
    """Sample a completion. ``end_id`` follows the last token of a constraint, or an error: vLLM stops at it."""

    ticket: int
    sampling: SamplingParams
    max_tokens: int
    end_id: int
    constraint: Constraint | None = None


@dataclass(frozen=True, slots=True)
class ScoringTask:
    """Score a known completion: its tokens are forced, one per step."""

    ticket: int
    completion_ids: Int32  # [R]
    temperature: float
    allowed_ids: RaggedIds | None

    @classmethod
    def of(cls, ticket: int, completion: Completion) -> ScoringTask:
        return cls(ticket, completion.completion_ids, completion.temperature, completion.allowed_ids)


@dataclass(slots=True)
class Record:
    """What one request sampled or scored, by position.

    ``supports`` is empty when the whole vocabulary could be drawn. A position that is sampled again replaces the old
    entry: vLLM discards tokens that it samples before the end of a chunked prompt, and repeats preempted ones.
    """

    logprobs: list[float] = field(default_factory=list)
    forced: list[bool] = field(default_factory=list)
    supports: list[Int32] = field(default_factory=list)
    error: GrpoError | None = None

    def add(self, position: int, logprob: float, support: Int32 | None = None, *, forced: bool = False) -> None:
        for values in (self.logprobs, self.forced, self.supports):
            del values[position:]
        self.logprobs.append(logprob)
        self.forced.append(forced)
        if support is not None:
            self.supports.append(support)

    def pack(self) -> dict[str, Any]:
        sizes = [len(support) for support in self.supports]
        return {
            "logprobs": np.array(self.logprobs, dtype=np.float32).tobytes(),
            "forced": np.array(self.forced, dtype=np.bool_).tobytes(),
            "offsets": np.cumsum([0, *sizes], dtype=np.int32).tobytes() if sizes else b"",
            "ids": np.concatenate(self.supports).astype(np.int32).tobytes() if sizes else b"",
            "error": [type(self.error).__name__, str(self.error)] if self.error is not None else None,
        }


@dataclass(frozen=True, slots=True)
class ReceivedRecord:
    """A ``Record`` in the engine's process."""

    logprobs: Float32  # [R]
    forced: Bool  # [R]
    allowed_ids: RaggedIds | None
    error: GrpoError | None

    @classmethod
    def unpack(cls, packed: Mapping[str, Any]) -> ReceivedRecord:
        error = packed["error"]
        offsets = np.frombuffer(packed["offsets"], dtype=np.int32)
        return cls(
            logprobs=np.frombuffer(packed["logprobs"], dtype=np.float32),
            forced=np.frombuffer(packed["forced"], dtype=np.bool_),
            allowed_ids=RaggedIds(np.frombuffer(packed["ids"], dtype=np.int32), offsets) if len(offsets) else None,
            error=_ERRORS[error[0]](error[1]) if error is not None else None,
        )


def pack_task(task: SamplingTask | ScoringTask) -> dict[str, Any]:
    """``task`` as the ``extra_args`` of a vLLM request."""
    if isinstance(task, ScoringTask):
        allowed = task.allowed_ids
        values = {
            "completion_ids": task.completion_ids.astype(np.int32).tobytes(),
            "temperature": task.temperature,
            "ids": allowed.ids.astype(np.int32).tobytes() if allowed is not None else b"",
            "offsets": allowed.offsets.astype(np.int32).tobytes() if allowed is not None else b"",
        }
    else:
        values = {
            "sampling": json.dumps(asdict(task.sampling)),  # JSON, because a seed may exceed msgpack's integers
            "max_tokens": task.max_tokens,
            "end_id": task.end_id,
            "constraint": _pack_constraint(task.constraint) if task.constraint is not None else None,
        }
    return {ARGS_KEY: {"ticket": task.ticket, **values}}


def unpack_task(extra_args: Mapping[str, Any], tokenizer: Callable[[], Tokenizer]) -> SamplingTask | ScoringTask:
    """The reverse of ``pack_task``. Equal constraints are built once; an expression is compiled for ``tokenizer``."""
    values = extra_args[ARGS_KEY]
    if "completion_ids" in values:
        offsets = np.frombuffer(values["offsets"], dtype=np.int32)
        return ScoringTask(
            ticket=values["ticket"],
            completion_ids=np.frombuffer(values["completion_ids"], dtype=np.int32),
            temperature=values["temperature"],
            allowed_ids=RaggedIds(np.frombuffer(values["ids"], dtype=np.int32), offsets) if len(offsets) else None,
        )
    sampling = json.loads(values["sampling"])
    return SamplingTask(
        ticket=values["ticket"],
        sampling=SamplingParams(**sampling | {"stop_ids": tuple(sampling["stop_ids"])}),
        max_tokens=values["max_tokens"],
        end_id=values["end_id"],
        constraint=_unpack_constraint(values["constraint"], tokenizer) if values["constraint"] is not None else None,
    )


@lru_cache(maxsize=1024)
def end_id(constraint: Constraint, stop_id: int) -> int:
    """An id that no completion of ``constraint`` contains, to end it with: ``stop_id`` where possible."""
    if isinstance(constraint, RegexConstraint):
        return constraint.tokenizer.stop_id
    assert isinstance(constraint, LineConstraint)
    used = {token for lines in constraint.segments for line in lines for token in line}
    return next(token for token in itertools.chain([stop_id], itertools.count()) if token not in used)


@lru_cache(maxsize=1024)
def _pack_constraint(constraint: Constraint) -> str:
    if isinstance(constraint, RegexConstraint):
        return json.dumps({"pattern": constraint.pattern})
    assert isinstance(constraint, LineConstraint)
    return json.dumps({"segments": constraint.segments, "distinct": constraint.distinct})


def _unpack_constraint(packed: str, tokenizer: Callable[[], Tokenizer]) -> Constraint:
    if packed.startswith('{"pattern"'):
        return compile_regex(json.loads(packed)["pattern"], tokenizer())
    return _line_constraint(packed)


@lru_cache(maxsize=1024)
def _line_constraint(packed: str) -> LineConstraint:
    values = json.loads(packed)
    segments = tuple(tuple(tuple(line) for line in lines) for lines in values["segments"])
    return LineConstraint(segments, distinct=values["distinct"])
