"""Canaries: quick checks of a rollout engine for faults that stay unnoticed for months, such as stale weights.

They compare any engine with ``transformers`` and PEFT (``reference``), never with other code of this project.
``exactness`` checks one answer, ``lifetime`` an engine that serves many versions and requests.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from grpo_core.errors import GrpoError
from grpo_core.rollout.canaries import exactness, lifetime
from grpo_core.rollout.canaries.subject import Finding, Subject


@dataclass(frozen=True, slots=True)
class CanaryResult:
    """The result of one canary, and how long it took."""

    name: str
    passed: bool
    detail: str
    duration_s: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True)
class Canary:
    """One check of an engine, by name."""

    name: str
    check: Callable[[Subject], Finding]

    def run(self, subject: Subject) -> CanaryResult:
        """Run the check. An engine that raises fails it."""
        start = time.perf_counter()
        try:
            finding = self.check(subject)
        except (GrpoError, RuntimeError) as error:  # RuntimeError: torch's own
            text = str(error).splitlines()
            finding = Finding(False, f"{type(error).__name__}: {text[0] if text else ''}")
        return CanaryResult(self.name, finding.passed, finding.detail, time.perf_counter() - start)


def canaries_for(
    subject: Subject, *, num_swaps: int, num_requests: int, max_memory_s: float = lifetime.MAX_MEMORY_S
) -> list[Canary]:
    """All canaries. The last one, for memory, takes ``num_swaps`` swaps with ``num_requests`` requests in all, or about
    ``max_memory_s`` with fewer."""
    reaches = [
        Canary(f"adapter reaches {target}", partial(exactness.adapter_reaches, target=target))
        for target in subject.reference.targets
    ]
    memory = partial(lifetime.memory_is_flat, num_swaps=num_swaps, num_requests=num_requests, max_s=max_memory_s)
    return [
        *reaches,
        Canary("nothing stale after a swap", exactness.nothing_is_stale),
        Canary("ratio 1 on policy", exactness.ratio_is_one),
        Canary("reference is the base model", exactness.reference_is_the_base),
        Canary("batch-mates change nothing", exactness.batch_mates_change_nothing),
        Canary("greedy is transformers.generate", exactness.greedy_is_generate),
        Canary("forced runs are the tokenizer's", exactness.forced_runs_are_the_tokenizers),
        Canary("requests keep their version", lifetime.requests_keep_their_version),
        Canary("versions share a batch", lifetime.versions_share_a_batch),
        Canary("memory is flat", memory),
    ]
