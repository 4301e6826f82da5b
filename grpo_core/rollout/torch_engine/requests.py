"""Requests from their submission to their outcome: what each holds meanwhile, and what is counted."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from grpo_core.errors import GrpoError
from grpo_core.rollout.protocol import EngineCounters, Outcome
from grpo_core.rollout.sequence import SequenceState, own_error
from grpo_core.rollout.torch_engine.cache.prefix_cache import PrefixCache, PrefixNode
from grpo_core.rollout.torch_engine.weights.versions import Versions
from grpo_core.types import Float32


class Requests:
    """Until ``release`` a request holds its policy version, and the leaf of its prompt once it is admitted."""

    def __init__(self, prefixes: PrefixCache, versions: Versions) -> None:
        self._prefixes = prefixes
        self._versions = versions
        self._num_siblings: Counter[tuple[int, bytes]] = Counter()  # not finished, by version and prompt
        self._ended: list[Outcome] = []
        self._last_ticket = 0
        self._totals: defaultdict[str, Any] = defaultdict(int)

    @property
    def counters(self) -> EngineCounters:
        return EngineCounters(**self._totals)

    @property
    def num_ended(self) -> int:
        """Outcomes that ``take_ended`` has not returned."""
        return len(self._ended)

    def count(self, **added: float) -> None:
        """Add to the counters of these names."""
        for name, number in added.items():
            self._totals[name] += number

    def new_ticket(self) -> int:
        self._last_ticket += 1
        self.count(num_requests=1)
        return self._last_ticket

    def begin(self, sequence: SequenceState) -> None:
        """Raises as ``Versions.hold``; then nothing is held."""
        self._versions.hold(sequence.policy_version)
        self._num_siblings[prompt_key(sequence)] += 1

    def has_siblings(self, sequence: SequenceState) -> bool:
        """Whether a request with the same prompt and version holds them still."""
        return self._num_siblings[prompt_key(sequence)] > 0

    def release(self, sequence: SequenceState, leaf: PrefixNode | None) -> None:
        """Release what ``sequence`` holds, except its slot."""
        if leaf is not None:
            self._prefixes.release(leaf)
        key = prompt_key(sequence)
        self._num_siblings[key] -= 1
        if not self._num_siblings[key]:
            del self._num_siblings[key]
        version = sequence.policy_version
        if self._versions.release(version) and version not in (0, self._versions.active):
            self._prefixes.drop(version)

    def refuse(self, ticket: int, error: GrpoError) -> None:
        """It never began."""
        self.count(num_failed=1)
        self._ended.append(Outcome(ticket, error))

    def fail(self, sequence: SequenceState, leaf: PrefixNode | None, error: GrpoError) -> None:
        """Release what ``sequence`` holds, and end it with ``error``."""
        self.count(num_failed=1, num_lost_tokens=len(sequence.tokens))
        self.release(sequence, leaf)
        self._ended.append(Outcome(sequence.ticket, error))

    def end(self, sequence: SequenceState, scores: Float32 | GrpoError | None) -> None:
        """Give ``sequence``, which holds nothing any more, its outcome: with ``scores`` under the base model, or the
        error that was met there."""
        try:
            result = scores if isinstance(scores, GrpoError) else sequence.completion(scores)
        except Exception as error:  # whatever it is, it is this request's
            result = own_error(error, "ending it")
        if isinstance(result, GrpoError):
            self.count(num_failed=1, num_lost_tokens=len(sequence.tokens))
        else:
            self.count(num_completion_tokens=len(sequence.tokens), num_forced_tokens=sum(sequence.forced))
        self._ended.append(Outcome(sequence.ticket, result))

    def take_ended(self) -> list[Outcome]:
        """The outcomes since the last call."""
        ended, self._ended = self._ended, []
        return ended

    def forget_ended(self, ticket: int) -> None:
        """Forget the outcome of a request that was cancelled: nobody wants it."""
        self._ended = [outcome for outcome in self._ended if outcome.ticket != ticket]


def prompt_key(sequence: SequenceState) -> tuple[int, bytes]:
    """Equal for siblings: they share a version and a prompt."""
    return sequence.policy_version, sequence.request.prompt_ids.tobytes()
