"""``decoder.forward`` and its attention in one call of compiled C code, for float32 on a CPU.

Legend: T tokens of the pass, H query heads, K key heads, D head size.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from grpo_core.kernels.compiler import load_kernels
from grpo_core.rollout.torch_engine.cache.prefix_cache import PrefixNode
from grpo_core.rollout.torch_engine.cache.rows import RowBatch
from grpo_core.rollout.torch_engine.forward.attention_plan import PromptChunk, RowPlan
from grpo_core.rollout.torch_engine.weights.fused import DecoderWeights
from grpo_core.rollout.torch_engine.weights.products import PANEL, NativeProducts, open_products

SOURCE = Path(__file__).with_name("decode.c")
EXACT = "-ffp-contract=off"  # a token's bits must not depend on where the compiler fuses multiply and add
MAX_GROUP = 16  # query heads of a key head
MAX_HEAD_SIZE = 256
TABLE_STEP_POSITIONS = 512

_Pointer = ctypes.c_void_p
_Int = ctypes.c_int64
_WEIGHTS = (
    *("attention_norm", "qkv", "qkv_bias", "query_norm", "key_norm", "output", "output_bias"),
    *("mlp_norm", "gate_up", "gate_up_bias", "down", "down_bias"),
)


class _Layer(ctypes.Structure):
    _fields_ = [(name, _Pointer) for name in _WEIGHTS]


class _Model(ctypes.Structure):
    _fields_ = [
        *((name, _Int) for name in ("hidden", "intermediate", "num_layers", "num_heads", "num_key_heads", "head_size")),
        *((name, _Int) for name in ("vocab_size", "is_packed")),
        *((name, _Pointer) for name in ("embedding", "final_norm", "cosines", "sines")),
        ("num_positions", _Int),
        ("epsilon", ctypes.c_double),
    ]


class _Store(ctypes.Structure):
    _fields_ = [
        *((name, _Pointer) for name in ("keys", "values")),
        *((name, _Int) for name in ("layer_stride", "head_stride")),
    ]


class _Segment(ctypes.Structure):
    _fields_ = [("store", _Store), *((name, _Int) for name in ("num_keys", "first_position", "start", "stop"))]


class _Pass(ctypes.Structure):
    _fields_ = [
        *((name, _Int) for name in ("num_tokens", "num_segments", "num_threads", "num_stores")),
        *(
            (name, _Pointer)
            for name in ("ids", "positions", "stores", "offsets", "places", "own", "segments", "states")
        ),
    ]


class _Passes(ctypes.Structure):
    _fields_ = [(name, _Pointer) for name in ("all", "wanted", "indices", "run_stages")]


@dataclass(frozen=True, slots=True)
class NativePass:
    """Tokens to run, and where their keys are. ``numbers`` [5, T] has per token: its id, its position in the sequence,
    the index in ``own`` of the store that its keys go to, the offset of its sequence in that store (in elements), and
    its place from that offset on. The pass returns the hidden states of the tokens ``wanted``, which are ascending.
    """

    numbers: NDArray[np.int64]
    own: list[_Store]
    segments: list[_Segment]
    wanted: NDArray[np.int64]

    def only_wanted(self) -> NativePass:
        """The same pass over the wanted tokens only."""
        segments: list[_Segment] = []
        for segment in self.segments:
            start, stop = np.searchsorted(self.wanted, (segment.start, segment.stop)).tolist()
            if start < stop:
                segments.append(_Segment(segment.store, segment.num_keys, segment.first_position, start, stop))
        numbers = np.ascontiguousarray(self.numbers[:, self.wanted])
        return NativePass(numbers, self.own, segments, np.arange(len(self.wanted)))


def rows_pass(token_ids: Sequence[int], batch: RowBatch, plan: RowPlan, wanted: Sequence[int]) -> NativePass:
    """A pass over the next tokens of rows."""
    keys, values = batch.keys, batch.values
    slot_stride = keys.stride(1)
    offsets = [slot * slot_stride for slot in plan.slots]
    numbers = np.array([token_ids, plan.positions, [0] * len(token_ids), offsets, plan.places], dtype=np.int64)
    store = _Store(keys.data_ptr(), values.data_ptr(), keys.stride(0), keys.stride(2))
    segments = [_segment(each.node, each.start, each.stop) for each in plan.segments]
    return NativePass(numbers, [store], segments, np.array(wanted, dtype=np.int64))


def prompts_pass(chunks: Sequence[PromptChunk], wanted: Sequence[int]) -> NativePass:
    """A pass over chunks of prompts. Their keys are stored in their nodes; a recomputed key has the same bits."""
    counts = [chunk.num_tokens for chunk in chunks]
    numbers = np.zeros((5, sum(counts)), dtype=np.int64)
    segments: list[_Segment] = []
    stop = 0
    for index, (chunk, count) in enumerate(zip(chunks, counts, strict=True)):
        start, stop = stop, stop + count
        numbers[0, start:stop] = chunk.node.tokens[chunk.start : chunk.stop]
        numbers[1, start:stop] = np.arange(chunk.node.start + chunk.start, chunk.node.start + chunk.stop)
        numbers[2, start:stop] = index
        numbers[4, start:stop] = np.arange(chunk.start, chunk.stop)
        segments += [_segment(node, start, stop) for node in chunk.before]
    stores = [_node_store(chunk.node) for chunk in chunks]
    return NativePass(numbers, stores, segments, np.array(wanted, dtype=np.int64))


class NativeDecoder:
    """Runs passes over weights, packed or not, without low-rank updates. ``open_native`` tells whether it can be built.

    A token's hidden state has the same bits whatever else is in its pass and however its prompt is cut into chunks.
    """

    def __init__(self, kernels: ctypes.CDLL, products: NativeProducts, weights: DecoderWeights) -> None:
        self.products = products
        self._decode = kernels.grpo_decode
        self._decode.argtypes = [_Pointer, _Pointer, _Pointer]
        self._decode.restype = ctypes.c_int
        self._cosines = self._sines = weights.embedding.new_empty(0, weights.head_size // 2)
        self._use(weights)

    def forward(self, weights: DecoderWeights, asked: NativePass) -> Tensor:
        """Hidden states [wanted, hidden], normalised for the head.

        Raises:
            torch.OutOfMemoryError: the activations do not fit in memory.
        """
        if weights is not self._weights:
            self._use(weights)
        num_tokens, num_wanted = asked.numbers.shape[1], len(asked.wanted)
        self._reach(int(asked.numbers[1].max()) + 1)
        hidden_size, num_threads = weights.embedding.shape[1], self.products.crew.num_threads
        every = _Described(asked, hidden_size, num_threads)
        wanted = every if num_wanted == num_tokens else _Described(asked.only_wanted(), hidden_size, num_threads)
        passes = _Passes(
            all=ctypes.addressof(every.pass_),
            wanted=ctypes.addressof(wanted.pass_),
            indices=asked.wanted.ctypes.data,
            run_stages=self.products.crew.run_stages,
        )
        if self._decode(ctypes.byref(self._model), self._layers, ctypes.byref(passes)):
            raise torch.OutOfMemoryError(f"a pass over {num_tokens} tokens: out of memory")
        return wanted.states

    def _use(self, weights: DecoderWeights) -> None:
        self._weights = weights  # kept alive: the structures below point into it
        self._layers = (_Layer * len(weights.layers))()
        for layer, has in zip(self._layers, weights.layers, strict=True):
            for name in ("attention_norm", "query_norm", "key_norm", "mlp_norm"):
                setattr(layer, name, _address(getattr(has, name)))
            for name in ("qkv", "output", "gate_up", "down"):
                linear = has.linear(name)
                setattr(layer, name, _address(linear.weight))
                setattr(layer, f"{name}_bias", _address(linear.bias))
        self._model = _Model(
            hidden=weights.embedding.shape[1],
            intermediate=weights.layers[0].down.weight.shape[1],
            num_layers=len(weights.layers),
            num_heads=weights.num_heads,
            num_key_heads=weights.num_key_heads,
            head_size=weights.head_size,
            vocab_size=len(weights.embedding),
            is_packed=weights.is_packed,
            embedding=_address(weights.embedding),
            final_norm=_address(weights.final_norm),
            cosines=_address(self._cosines),
            sines=_address(self._sines),
            num_positions=len(self._cosines),
            epsilon=weights.epsilon,
        )

    def _reach(self, num_positions: int) -> None:
        """Extend the tables of the rotary embedding to ``num_positions``."""
        if num_positions <= len(self._cosines):
            return
        size = -(-num_positions // TABLE_STEP_POSITIONS) * TABLE_STEP_POSITIONS
        angles = torch.arange(size).float()[:, None] * self._weights.inverse_frequencies
        self._cosines = angles.cos() * self._weights.rotary_scaling
        self._sines = angles.sin() * self._weights.rotary_scaling
        self._model.cosines, self._model.sines = _address(self._cosines), _address(self._sines)
        self._model.num_positions = size


class _Described:
    """A pass as the C code reads it, with the memory that it points to."""

    def __init__(self, asked: NativePass, hidden_size: int, num_threads: int) -> None:
        self._numbers = asked.numbers
        self._own = (_Store * len(asked.own))(*asked.own)
        self._segments = (_Segment * len(asked.segments))(*asked.segments)
        num_tokens = asked.numbers.shape[1]
        self.states = torch.empty(num_tokens, hidden_size)
        address, step = asked.numbers.ctypes.data, asked.numbers.strides[0]
        self.pass_ = _Pass(
            num_tokens=num_tokens,
            num_segments=len(asked.segments),
            num_threads=num_threads,
            num_stores=len(asked.own),
            ids=address,
            positions=address + step,
            stores=address + 2 * step,
            offsets=address + 3 * step,
            places=address + 4 * step,
            own=ctypes.addressof(self._own),
            segments=ctypes.addressof(self._segments),
            states=self.states.data_ptr(),
        )


def open_native(weights: DecoderWeights) -> NativeDecoder | None:
    """Compiled code for ``weights``; None where their sizes, their device or this machine does not allow it."""
    embedding = weights.embedding
    if embedding.device.type != "cpu" or embedding.dtype != torch.float32:
        return None
    intermediate = weights.layers[0].down.weight.shape[1]
    sizes = (embedding.shape[1], intermediate, weights.head_size)
    if any(size % PANEL for size in sizes) or weights.head_size > MAX_HEAD_SIZE:
        return None
    if weights.num_heads > MAX_GROUP * weights.num_key_heads:
        return None
    kernels = load_kernels(SOURCE, EXACT)
    products = open_products() if kernels is not None else None
    return NativeDecoder(kernels, products, weights) if kernels is not None and products is not None else None


def _node_store(node: PrefixNode) -> _Store:
    keys, values = node.keys, node.values
    assert keys is not None
    assert values is not None
    return _Store(keys.data_ptr(), values.data_ptr(), keys.stride(0), keys.stride(1))


def _segment(node: PrefixNode, start: int, stop: int) -> _Segment:
    return _Segment(_node_store(node), node.num_tokens, node.start, start, stop)


def _address(tensor: Tensor | None) -> int | None:
    if tensor is None:
        return None
    assert tensor.is_contiguous()
    return tensor.data_ptr()
