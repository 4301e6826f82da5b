"""Runs in vLLM's process: a logits processor that draws every token itself and records the distribution.

vLLM's own sampler cannot keep the numerics contract: it does not report the support, its structured outputs allow
tokenizations that the tokenizer never produces, and a seeded request with a chunked prompt crashes its CPU engine. So
this logits processor samples with the torch engine's code, and masks all tokens but the drawn one.

Legend: B rows of vLLM's batch, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates  # pyright: ignore[reportMissingImports]
from vllm.v1.sample.logits_processor.interface import LogitsProcessor  # pyright: ignore[reportMissingImports]

from grpo_core.errors import GrpoError, SamplingError
from grpo_core.model.tokenizer import Tokenizer, load_tokenizer
from grpo_core.rollout.constraints.guard import GuardedCursor
from grpo_core.rollout.sampling import Draw, draw_tokens
from grpo_core.rollout.vllm_engine.task import ARGS_KEY, Record, SamplingTask, ScoringTask, unpack_task
from grpo_core.types import Int32


class _SamplingRow:
    """One request that samples. ``output_ids`` is vLLM's own list, which grows."""

    def __init__(self, task: SamplingTask, output_ids: list[int], record: Record, vocab_size: int) -> None:
        self.task = task
        self.allowed: Sequence[int] | Int32 | None = None
        self._output_ids = output_ids
        self._record = record
        self._cursor: GuardedCursor | None = None
        try:
            self._cursor = GuardedCursor(task.constraint, vocab_size) if task.constraint is not None else None
        except GrpoError as error:
            self._record.error = error
        self._num_walked = 0
        self._uniforms = np.random.default_rng(task.sampling.seed).random(task.max_tokens)

    @property
    def uniform(self) -> float:
        return float(self._uniforms[len(self._output_ids)])

    def settle(self) -> int | None:
        """The next token when it is forced; else None, and ``allowed`` has the candidates."""
        if self._record.error is not None:
            return self.task.end_id
        if self._cursor is None:
            return None
        try:
            while self._num_walked < len(self._output_ids):
                self._cursor.advance(self._output_ids[self._num_walked])
                self._num_walked += 1
            if self._cursor.finished:
                return self.task.end_id
            allowed = self.allowed = self._cursor.allowed()
        except GrpoError as error:
            self._record.error = error
            return self.task.end_id
        if len(allowed) > 1:
            return None
        self._record.add(len(self._output_ids), 0.0, np.array(allowed, dtype=np.int32), forced=True)
        return int(allowed[0])

    def take(self, draw: Draw | SamplingError) -> int:
        if isinstance(draw, SamplingError):
            self._record.error = draw
            return self.task.end_id
        self._record.add(len(self._output_ids), draw.logprob, draw.support)
        return draw.token


class _ScoringRow:
    """One request that scores known tokens."""

    def __init__(self, task: ScoringTask, output_ids: list[int], record: Record) -> None:
        self.task = task
        self._output_ids = output_ids
        self._record = record

    @property
    def token(self) -> int:
        return int(self.task.completion_ids[len(self._output_ids)])

    @property
    def allowed(self) -> np.ndarray | None:
        support = self.task.allowed_ids
        return support[len(self._output_ids)].astype(np.int64) if support is not None else None

    def take(self, logprob: float) -> None:
        self._record.add(len(self._output_ids), logprob)


class ExactSampler(LogitsProcessor):
    """A vLLM logits processor: masks all but the token that it has drawn for each of our requests."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self._model: str = vllm_config.model_config.model
        self._rows: dict[int, _SamplingRow | _ScoringRow] = {}
        self._records: dict[int, Record] = {}
        self._vocab_size: int = vllm_config.model_config.get_vocab_size()

    def is_argmax_invariant(self) -> bool:
        return False

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return load_tokenizer(self._model)

    def update_state(self, batch_update: Any) -> None:
        process_dict_updates(self._rows, batch_update, self._join)

    def take_records(self, tickets: list[int]) -> list[dict[str, Any]]:
        """Remove and return the packed records of ``tickets``. A request that drew nothing has an empty one."""
        return [self._records.pop(ticket, Record()).pack() for ticket in tickets]

    def apply(self, logits: Tensor) -> Tensor:
        tokens: dict[int, int] = {}
        drawing: dict[int, _SamplingRow] = {}
        scoring: dict[int, _ScoringRow] = {}
        for index, row in self._rows.items():
            if isinstance(row, _ScoringRow):
                scoring[index] = row
            elif (token := row.settle()) is not None:
                tokens[index] = token
            else:
                drawing[index] = row
        if drawing:
            tokens |= _draw(logits, drawing)
        if scoring:
            tokens |= _score(logits, scoring)
        if tokens:
            rows = torch.tensor(list(tokens), device=logits.device)
            logits.index_fill_(0, rows, float("-inf"))
            logits[rows, torch.tensor(list(tokens.values()), device=logits.device)] = 0.0
        return logits

    def _join(self, params: Any, prompt_ids: object, output_ids: list[int]) -> _SamplingRow | _ScoringRow | None:
        if ARGS_KEY not in (params.extra_args or {}):
            return None
        task = unpack_task(params.extra_args, lambda: self._tokenizer)
        record = self._records.setdefault(task.ticket, Record())
        if isinstance(task, ScoringTask):
            return _ScoringRow(task, output_ids, record)
        return _SamplingRow(task, output_ids, record, self._vocab_size)


class RecordReader:
    """A worker extension: the engine can call ``take_records`` on vLLM's workers."""

    model_runner: Any

    def take_records(self, tickets: list[int]) -> list[dict[str, Any]]:
        processors = self.model_runner.input_batch.logitsprocs.all
        (sampler,) = (processor for processor in processors if isinstance(processor, ExactSampler))
        return sampler.take_records(tickets)


def _draw(logits: Tensor, rows: dict[int, _SamplingRow]) -> dict[int, int]:
    draws = draw_tokens(
        logits[torch.tensor(list(rows), device=logits.device)],
        [row.task.sampling for row in rows.values()],
        [row.uniform for row in rows.values()],
        [row.allowed for row in rows.values()],
    )
    return {index: row.take(draw) for (index, row), draw in zip(rows.items(), draws, strict=True)}


def _score(logits: Tensor, rows: dict[int, _ScoringRow]) -> dict[int, int]:
    """Log-probabilities of the known tokens, with temperature and over the support."""
    device = logits.device
    temperatures = torch.tensor([[row.task.temperature] for row in rows.values()], device=device)
    scaled = logits[torch.tensor(list(rows), device=device)].float() / temperatures
    for place, row in enumerate(rows.values()):
        if (allowed := row.allowed) is not None:
            ids = torch.from_numpy(allowed).to(device)
            kept = scaled[place, ids]
            scaled[place] = float("-inf")
            scaled[place, ids] = kept
    tokens = {index: row.token for index, row in rows.items()}
    targets = torch.tensor([[token] for token in tokens.values()], device=device)
    logprobs = scaled.log_softmax(dim=-1).gather(-1, targets)[:, 0].tolist()
    for row, logprob in zip(rows.values(), logprobs, strict=True):
        row.take(logprob)
    return tokens
