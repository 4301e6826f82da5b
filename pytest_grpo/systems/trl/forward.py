"""TRL's forward passes: how many rows each has, what it is for, the log-probabilities of given completions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pytest_grpo.systems.protocol import Completion
from pytest_grpo.systems.trl.trainer import unpad

if TYPE_CHECKING:
    from torch import Tensor

    from pytest_grpo.systems.protocol import Float32


def rows_per_forward(inputs: Mapping[str, Tensor], max_tokens: int) -> int:
    """So that no pass has more than ``max_tokens`` tokens, padding included."""
    width = inputs["prompt_ids"].shape[1] + inputs["completion_ids"].shape[1]
    return max(1, max_tokens // width)


def score(
    trainer: Any, inputs: dict[str, Tensor], completions: Sequence[Completion], max_tokens: int
) -> tuple[Float32, ...]:
    """The log-probabilities [R] of each completion under the active adapter, without a gradient."""
    import torch

    with torch.no_grad():
        logprobs, _, _ = trainer._get_per_token_logps_and_entropies(
            trainer.model,
            torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1),
            torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1),
            inputs["completion_ids"].shape[1],
            batch_size=rows_per_forward(inputs, max_tokens),
        )
    return unpad(logprobs, completions)


@contextmanager
def watched_forward(model: Any) -> Iterator[list[Tensor | None]]:
    """One entry per forward pass: the log-probabilities [B, P + R] for the loss; None for any other pass."""
    from trl.trainer.utils import FusedCausalLMOutput  # pyright: ignore[reportMissingImports]

    passes: list[Tensor | None] = []

    def watch(module: Any, args: Any, output: Any) -> None:
        is_trained = isinstance(output, FusedCausalLMOutput) and output.log_probs.requires_grad
        passes.append(output.log_probs.detach() if is_trained else None)

    with model.get_base_model().register_forward_hook(watch):
        yield passes
