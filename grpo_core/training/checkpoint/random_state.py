"""The states of the process's random number generators, as tensors: they can be stored without pickle.

The project itself does not draw from them: rollouts have a seed per request, the adapter has its own. They matter for
user code: environments that call ``random`` or ``numpy.random``, models with dropout.
"""

from __future__ import annotations

import random
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

RandomState = Mapping[str, Tensor]
"""``python``, ``numpy``, ``torch`` and one ``cuda.<index>`` per device, each the state of one generator."""


def capture_random_state() -> RandomState:
    """The states of Python's, numpy's and torch's generators, on the CPU."""
    _, numbers, python_spare = random.getstate()
    numpy_state = np.random.get_state(legacy=False)
    assert isinstance(numpy_state, dict)
    twister = numpy_state["state"]
    state = {
        "python": torch.tensor(numbers, dtype=torch.int64),
        "python.spare": torch.tensor([] if python_spare is None else [python_spare], dtype=torch.float64),
        "numpy": torch.from_numpy(twister["key"].astype(np.int64)),
        "numpy.position": torch.tensor([twister["pos"], numpy_state["has_gauss"]], dtype=torch.int64),
        "numpy.spare": torch.tensor([numpy_state["gauss"]], dtype=torch.float64),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state |= {f"cuda.{index}": values for index, values in enumerate(torch.cuda.get_rng_state_all())}
    return state


def restore_random_state(state: RandomState) -> None:
    """Set the generators to ``state``. States of GPUs that this machine lacks are ignored."""
    random.setstate(
        (3, tuple(state["python"].tolist()), state["python.spare"].item() if len(state["python.spare"]) else None)
    )
    position, has_gauss = state["numpy.position"].tolist()
    np.random.set_state(
        {
            "bit_generator": "MT19937",
            "state": {"key": state["numpy"].numpy().astype(np.uint32), "pos": position},
            "has_gauss": has_gauss,
            "gauss": state["numpy.spare"].item(),
        }
    )
    torch.set_rng_state(state["torch"])
    for index in range(torch.cuda.device_count()):
        if f"cuda.{index}" in state:
            torch.cuda.set_rng_state(state[f"cuda.{index}"], index)
