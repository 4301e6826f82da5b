"""Counts what a system computes inside a block of code."""

from __future__ import annotations

from contextlib import ExitStack

from pytest_grpo.systems.counting.count import Count
from pytest_grpo.systems.counting.passes import Passes, watch_passes
from pytest_grpo.systems.counting.tokenizer_calls import TokenizerCalls, watch_tokenizers
from pytest_grpo.systems.protocol import GrpoSystem


class CallCounter:
    """Counts passes through a system's decoders and calls of its tokenizers while its block runs.

        with CallCounter(system) as counter:
            step = system.train_step(batch)
        calls = counter.tokenizer_calls(told=step.num_tokenizer_calls)
        grpo_gate.check("tokenizer_calls", calls.value, note=calls.note)

    The modules and tokenizers are those that the system shows (``GrpoSystem.decoders``, ``GrpoSystem.tokenizers``).
    Watching costs time: do not measure it in the same block.
    """

    def __init__(self, system: GrpoSystem, vocab_size: int | None = None) -> None:
        """With ``vocab_size`` any model with an embedding table of that length is watched, too, shown or not."""
        self._system = system
        self._vocab_size = vocab_size
        self._watchers = ExitStack()
        self._passes = Passes()
        self._calls = TokenizerCalls()

    def __enter__(self) -> CallCounter:
        enter = self._watchers.enter_context
        self._passes = enter(watch_passes(self._system.decoders(), self._vocab_size))
        self._calls = enter(watch_tokenizers(self._system.tokenizers()))
        return self

    def __exit__(self, *_: object) -> None:
        self._watchers.close()

    def forward_passes(self, told: int) -> Count:
        """Passes, with a gradient or without. ``told`` is the system's own number."""
        return Count.of(told, self._num_passes)

    def gradient_passes(self, told: int) -> Count:
        """Passes with a gradient."""
        seen = None if self._num_passes is None else sum(each.has_gradient for each in self._passes.seen)
        return Count.of(told, seen)

    def model_tokens(self, told: int) -> Count:
        """Tokens of all passes, padding included."""
        seen = None if self._num_passes is None else sum(each.num_tokens for each in self._passes.seen)
        return Count.of(told, seen)

    def tokenizer_calls(self, told: int) -> Count:
        """Calls that turn text into ids or ids into text."""
        return Count.of(told, self._calls.seen)

    @property
    def _num_passes(self) -> int | None:
        """None where no pass was seen: whatever ran, ran elsewhere."""
        return len(self._passes.seen) or None
