"""The state of training in one file: the adapter, the optimizer's state, the number of steps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

FILE = "state.safetensors"
_STEPS, _WEIGHTS, _OPTIMIZER = "num_steps", "weights.", "optimizer."


def save_state(folder: Path, weights: Mapping[str, Tensor], optimizer: Any, num_steps: int) -> None:
    """Write ``folder/state.safetensors``."""
    import torch
    from safetensors.torch import save_file

    tensors = {_STEPS: torch.tensor(num_steps)}
    tensors |= {_WEIGHTS + name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    for place, values in optimizer.state_dict()["state"].items():
        tensors |= {f"{_OPTIMIZER}{place}.{name}": value.detach().cpu() for name, value in values.items()}
    save_file(tensors, folder / FILE)


def load_state(folder: Path, optimizer: Any) -> tuple[dict[str, Tensor], int]:
    """The adapter and the number of steps; the rest goes into ``optimizer``."""
    from safetensors.torch import load_file

    tensors = load_file(folder / FILE)
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith(_OPTIMIZER):
            place, _, field = name.removeprefix(_OPTIMIZER).partition(".")
            state.setdefault(int(place), {})[field] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    weights = {name.removeprefix(_WEIGHTS): each for name, each in tensors.items() if name.startswith(_WEIGHTS)}
    return weights, int(tensors[_STEPS])
