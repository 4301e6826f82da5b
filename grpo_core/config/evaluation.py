"""The section of the configuration about evaluation while a run trains."""

from __future__ import annotations

from pydantic import Field

from grpo_core.config.section import PathOrName, Section


class EvaluationConfig(Section):
    """Held-out questions, asked every so many steps. Training samples and learns the same with and without."""

    every_steps: int = Field(default=0, ge=0, le=10**9)
    """Evaluate the base model, the policy after every so many steps, and the last one. 0 is never."""
    path: PathOrName | None = None
    """Held-out questions, as ``environment.data.path``, with the same columns and rewards."""
    environment: str | None = None
    """Another environment, as ``environment.name``. Default: the run's own, from starting states of other seeds."""
    num_questions: int = Field(default=64, ge=1, le=1_000_000)
    """Questions or starting states: the first ones of ``path``."""
    num_samples: int = Field(default=4, ge=1, le=65_536)
    """Answers drawn to each question beside the greedy one: the k of pass@k. 1 draws none."""
    passed_at: float = 1.0
    """An answer passes with at least this reward."""
