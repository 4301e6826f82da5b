"""llama.cpp, through llama-cpp-python, with the adapter merged into its weights.

A prompt is read once per group, its siblings begin with the prompt's keys and values, and one batch has a token of all
sequences. llama.cpp's own sampler draws at temperature 1 from the whole vocabulary. It computes no log-probabilities
and no text, which is less work than the arm ``torch`` does. What stands in the memory of keys and values is forgotten
before each workload.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.rollout_arms.arm import RolloutSample, Setup, Workload
from bench.rollout_arms.gguf_file import write_gguf
from bench.rollout_arms.llama_context import ContextShape, LlamaContext, LlamaModel
from bench.rollout_arms.merged import merged_model
from grpo_core.types import Float32, Int32
from pytest_grpo.measuring.sampling.clock import now

TRIAL_TOKENS = 16
"""So many tokens of each sequence are sampled to see which memory is faster."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """The completions of a workload, and the time that they took."""

    ids: Int32  # [B, R]
    seconds: float
    decode_seconds: float

    def seconds_for(self, num_tokens: int) -> float:
        """If completions had ``num_tokens``."""
        num_steps = self.ids.shape[1] - 1
        return self.seconds + self.decode_seconds * ((num_tokens - 1) / num_steps - 1)


class LlamaCppArm:
    """It has one memory for all sequences or one for each, whichever was faster at the first workload of a size."""

    def __init__(self, setup: Setup, lora: Path, *, half: bool, num_tokens: int) -> None:
        """For completions of at most ``num_tokens``."""
        import llama_cpp  # pyright: ignore[reportMissingImports]

        self._lib: Any = llama_cpp
        file = setup.folder / f"llama-cpp-{'f16' if half else 'f32'}.gguf"
        write_gguf(merged_model(setup.model.name, lora), file, half=half)
        self._model = LlamaModel(file)
        self._half, self._num_threads, self._num_tokens = half, setup.num_threads, max(num_tokens, TRIAL_TOKENS)
        self._contexts: dict[ContextShape, LlamaContext] = {}  # by the shape of a unified one

    def run(self, workload: Workload) -> RolloutSample:
        shape = self._shape(workload)
        if shape not in self._contexts:
            self._contexts[shape] = self._faster(shape, workload)
        drawn = self._sample(self._contexts[shape], workload)
        return RolloutSample(drawn.ids.size, drawn.seconds, decode_seconds=drawn.decode_seconds)

    def greedy(self, prompt: Int32, num_tokens: int) -> Int32:
        """The most probable continuation of ``prompt``."""
        workload = Workload((prompt,), 1, num_tokens, seed=0)
        sampler = self._lib.llama_sampler_init_greedy()
        with closing(self._new_context(self._shape(workload))) as context:
            found = complete(context, workload, sampler).ids[0]
        self._lib.llama_sampler_free(sampler)
        return found

    def logprobs(self, prompt: Int32, completion: Int32) -> Float32:
        """Of each token of ``completion`` after ``prompt``, in nats."""
        ids = np.concatenate([prompt, completion])[:-1]
        first = len(prompt) - 1
        positions = np.arange(len(ids), dtype=np.int32)
        with closing(self._new_context(self._shape(Workload((ids,), 1, 1, seed=0)))) as context:
            context.read(ids, positions, np.zeros_like(positions), positions >= first)
            rows = [context.logits(first + place).astype(np.float64) for place in range(len(completion))]
        found = [row[token] - log_sum_exp(row) for row, token in zip(rows, completion.tolist(), strict=True)]
        return np.array(found, dtype=np.float32)

    def close(self) -> None:
        for context in self._contexts.values():
            context.close()
        self._model.close()

    def _shape(self, workload: Workload) -> ContextShape:
        lengths = [len(prompt) for prompt in workload.prompts]
        return ContextShape(workload.num_sequences, sum(lengths), self._num_tokens, max(lengths), is_unified=True)

    def _new_context(self, shape: ContextShape) -> LlamaContext:
        return LlamaContext(self._model, shape, self._num_threads, half=self._half)

    def _faster(self, shape: ContextShape, workload: Workload) -> LlamaContext:
        """With one memory for all sequences, or with one for each."""
        trial = replace(workload, num_tokens=TRIAL_TOKENS)
        contexts = [self._new_context(replace(shape, is_unified=is_unified)) for is_unified in (True, False)]
        seconds = [self._sample(context, trial).seconds_for(self._num_tokens) for context in contexts]
        slower = contexts.pop(0 if seconds[0] > seconds[1] else 1)
        slower.close()
        return contexts[0]

    def _sample(self, context: LlamaContext, workload: Workload) -> Drawn:
        sampler = self._lib.llama_sampler_init_dist(workload.seed)
        drawn = complete(context, workload, sampler)
        self._lib.llama_sampler_free(sampler)
        return drawn


def complete(context: LlamaContext, workload: Workload, sampler: Any) -> Drawn:
    """Sequence g * G + k is sibling k of group g; the prompt is read as the first sibling's."""
    size = workload.group_size
    lengths = np.array([len(prompt) for prompt in workload.prompts])
    ends = np.cumsum(lengths)
    sequences = np.arange(workload.num_sequences, dtype=np.int32)
    drawn = np.empty((workload.num_tokens, len(sequences)), dtype=np.int32)
    start = now()
    context.clear()
    outputs = np.zeros(ends[-1], dtype=np.int8)
    outputs[ends - 1] = 1
    positions = np.concatenate([np.arange(length, dtype=np.int32) for length in lengths])
    owners = np.repeat(sequences[::size], lengths)
    context.read(np.concatenate(workload.prompts), positions, owners, outputs)
    drawn[0] = [context.draw(sampler, int(ends[sequence // size]) - 1) for sequence in sequences]
    for sequence in sequences.tolist():
        if sequence % size:
            context.share(sequence - sequence % size, sequence)
    prompts_read = now()
    after, every = np.repeat(lengths, size).astype(np.int32), np.ones(len(sequences), dtype=np.int8)
    for place in range(1, workload.num_tokens):
        context.read(drawn[place - 1], after + place - 1, sequences, every)
        drawn[place] = [context.draw(sampler, row) for row in range(len(sequences))]
    end = now()
    return Drawn(drawn.T.copy(), end - start, end - prompts_read)


def log_sum_exp(row: np.ndarray) -> float:
    largest = row.max()
    return float(largest + np.log(np.exp(row - largest).sum()))
