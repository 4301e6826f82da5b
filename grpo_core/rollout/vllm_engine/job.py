"""One request to vLLM, and its result."""

from __future__ import annotations

from dataclasses import dataclass

from grpo_core.errors import GrpoError
from grpo_core.rollout.protocol import GenerationRequest
from grpo_core.rollout.vllm_engine.adapters import LoadedAdapter
from grpo_core.types import Completion


@dataclass(frozen=True, slots=True)
class Job:
    """A request to run. ``adapter`` is that of ``version``, None for the base model."""

    ticket: int
    request: GenerationRequest
    version: int
    adapter: LoadedAdapter | None
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Ended:
    """A job's result. ``num_cached_tokens`` of its prompt came from the prefix cache."""

    ticket: int
    result: Completion | GrpoError
    num_cached_tokens: int = 0
