"""What a system tells of one training step, and of one swap of an adapter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_grpo.systems.figures import check_figures

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Float32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class TrainStep:
    """The measurements of one training step. Times cover the whole step, with the device synchronized."""

    loss: float
    grad_norm: float  # before clipping
    loss_forward_ms: float
    backward_ms: float
    num_forward_passes: int  # through the decoder, from the batch to the update: those that only score, too
    num_micro_batches: int
    num_tokenizer_calls: int
    num_loss_tokens: int
    logprobs: tuple[Float32, ...]  # [R] per completion, of the forward pass before the update; 0 where not chosen
    other_ms: float = 0.0  # in other parts of the step that the system times: scoring, the optimizer

    def __post_init__(self) -> None:
        check_figures(self, beside=("logprobs",))


@dataclass(frozen=True, slots=True)
class AdapterSwap:
    """``load_ms``: time to bring the weights into memory. ``swap_ms``: time from there until the sampler uses them."""

    cache_hit: bool
    load_ms: float
    swap_ms: float

    def __post_init__(self) -> None:
        check_figures(self)
