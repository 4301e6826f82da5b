"""The arms' interface: an arm completes prompts and reports tokens and seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from grpo_core.config import ModelConfig
from grpo_core.rollout.constraints.lines import Line
from grpo_core.types import Int32

Segments = tuple[tuple[Line, ...], ...]
"""The lines of each segment of an answer, as token ids."""


@dataclass(frozen=True, slots=True)
class Setup:
    """The settings that every arm is built from."""

    model: ModelConfig
    num_threads: int
    max_sequences: int  # maximum batch size
    folder: Path  # for files of the arms


@dataclass(frozen=True, slots=True)
class Workload:
    """Sample ``group_size`` completions of each prompt, at temperature 1 from the whole vocabulary.

    With ``orders`` a completion is one line of each segment and ends with the last one; without, it has ``num_tokens``.
    """

    prompts: tuple[Int32, ...]  # [P] each, all different
    group_size: int
    num_tokens: int
    seed: int
    orders: tuple[Segments, ...] | None = None  # by prompt

    @property
    def num_sequences(self) -> int:
        return len(self.prompts) * self.group_size


@dataclass(frozen=True, slots=True)
class RolloutSample:
    """Tokens and time of one ``Workload``: from token ids to token ids, compiling the constraints included."""

    num_tokens: int  # of all completions
    seconds: float
    num_prefill_tokens: int | None = None  # prompt tokens computed, if the arm counts them
    decode_seconds: float | None = None  # without the first step, the prefill, if the arm has steps

    @property
    def tokens_per_second(self) -> float:
        return self.num_tokens / self.seconds


class Arm(Protocol):
    def run(self, workload: Workload) -> RolloutSample: ...

    def close(self) -> None: ...


Arms = Mapping[str, Arm]
