"""The gradient of a PEFT adapter in training, by the names that its weights have in a file."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from pytest_grpo.systems.protocol import Float32


def adapter_gradients(parameters: Iterable[tuple[str, nn.Parameter]]) -> dict[str, Float32]:
    """A copy of the gradient of each named parameter that has one."""
    from grpo_core.lora.layout import PEFT_PREFIX

    return {
        name.removeprefix(PEFT_PREFIX).replace(".default.", "."): parameter.grad.float().cpu().numpy().copy()
        for name, parameter in parameters
        if parameter.grad is not None
    }
