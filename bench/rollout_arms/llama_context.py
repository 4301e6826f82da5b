"""One context of llama.cpp: sequences with a common memory of keys and values, and batches of their tokens."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from grpo_core.types import Float32, Int32

ROUNDED_TO = 256
"""llama.cpp's memory has a multiple of so many tokens."""


@dataclass(frozen=True, slots=True)
class ContextShape:
    num_sequences: int
    num_shared_tokens: int  # of all prompts together
    num_own_tokens: int  # of each sequence, without its prompt
    num_prompt_tokens: int  # of the longest prompt
    is_unified: bool
    """One memory for all sequences, where a prompt is there once. Else each has its own, and a copy of the prompt."""

    @property
    def num_cells(self) -> int:
        """The tokens that the memory holds."""
        if self.is_unified:
            return _rounded(self.num_shared_tokens + self.num_sequences * self.num_own_tokens)
        return self.num_sequences * _rounded(self.num_prompt_tokens + self.num_own_tokens)

    @property
    def num_batch_tokens(self) -> int:
        """The tokens of the largest batch: all prompts, or a token of each sequence."""
        return max(self.num_shared_tokens, self.num_sequences)


class LlamaModel:
    """The weights of a GGUF file."""

    def __init__(self, file: Path) -> None:
        import llama_cpp  # pyright: ignore[reportMissingImports]

        self._quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self._quiet, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        self.pointer: Any = llama_cpp.llama_model_load_from_file(
            str(file).encode(), llama_cpp.llama_model_default_params()
        )
        if not self.pointer:
            raise ValueError(f"{file}: llama.cpp cannot load it; its build does not know this model, update it")
        self.num_ids: int = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.pointer))

    def close(self) -> None:
        import llama_cpp  # pyright: ignore[reportMissingImports]

        llama_cpp.llama_model_free(self.pointer)


class LlamaContext:
    """Reads tokens of sequences 0 to N, and draws the next ones.

    Keys and values have the precision of the weights; flash attention is on where llama.cpp has it.
    """

    def __init__(self, model: LlamaModel, shape: ContextShape, num_threads: int, *, half: bool) -> None:
        import llama_cpp  # pyright: ignore[reportMissingImports]

        self._lib: Any = llama_cpp
        self._num_ids = model.num_ids
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = shape.num_cells
        params.n_batch = shape.num_batch_tokens
        params.n_seq_max = shape.num_sequences
        params.n_outputs_max = max(shape.num_sequences, shape.num_own_tokens)
        params.n_threads = params.n_threads_batch = num_threads
        params.type_k = params.type_v = llama_cpp.GGML_TYPE_F16 if half else llama_cpp.GGML_TYPE_F32
        params.kv_unified = shape.is_unified
        params.no_perf = True
        self._pointer: Any = llama_cpp.llama_init_from_model(model.pointer, params)
        if not self._pointer:
            raise MemoryError(f"llama.cpp cannot make a context of {shape.num_cells} tokens")
        self._memory = llama_cpp.llama_get_memory(self._pointer)
        self._batch = _Batch(shape.num_batch_tokens)

    def clear(self) -> None:
        """Forget all sequences."""
        self._lib.llama_memory_clear(self._memory, False)

    def share(self, source: int, target: int) -> None:
        """Let sequence ``target`` begin with all tokens of ``source``."""
        self._lib.llama_memory_seq_cp(self._memory, source, target, -1, -1)

    def read(self, ids: Int32, positions: Int32, sequences: Int32, outputs: np.ndarray) -> None:
        """Compute these tokens; ``outputs`` says after which of them one can draw."""
        code = self._lib.llama_decode(self._pointer, self._batch.filled(ids, positions, sequences, outputs))
        if code != 0:
            raise RuntimeError(f"llama_decode ended with {code} for {len(ids)} tokens")

    def draw(self, sampler: Any, row: int) -> int:
        """An id after token ``row`` of the last batch."""
        return self._lib.llama_sampler_sample(sampler, self._pointer, row)

    def logits(self, row: int) -> Float32:
        """After token ``row`` of the last batch."""
        found = self._lib.llama_get_logits_ith(self._pointer, row)
        return np.ctypeslib.as_array(found, (self._num_ids,)).copy()

    def close(self) -> None:
        self._lib.llama_free(self._pointer)


class _Batch:
    """Arrays that llama.cpp reads as a ``llama_batch``."""

    def __init__(self, num_tokens: int) -> None:
        import llama_cpp  # pyright: ignore[reportMissingImports]

        self._ids, self._positions, self._sequences = (np.zeros(num_tokens, dtype=np.int32) for _ in range(3))
        self._outputs = np.zeros(num_tokens, dtype=np.int8)
        self._counts = np.ones(num_tokens, dtype=np.int32)  # each token is of one sequence
        size = self._sequences.itemsize
        self._pointers = self._sequences.ctypes.data + size * np.arange(num_tokens, dtype=np.uintp)
        as_int32 = ctypes.POINTER(ctypes.c_int32)
        self._struct = llama_cpp.llama_batch(
            token=self._ids.ctypes.data_as(as_int32),
            pos=self._positions.ctypes.data_as(as_int32),
            n_seq_id=self._counts.ctypes.data_as(as_int32),
            seq_id=self._pointers.ctypes.data_as(ctypes.POINTER(as_int32)),
            logits=self._outputs.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )

    def filled(self, ids: Int32, positions: Int32, sequences: Int32, outputs: np.ndarray) -> Any:
        num = self._struct.n_tokens = len(ids)
        self._ids[:num], self._positions[:num], self._sequences[:num] = ids, positions, sequences
        self._outputs[:num] = outputs
        return self._struct


def _rounded(num_tokens: int) -> int:
    return -(-num_tokens // ROUNDED_TO) * ROUNDED_TO
