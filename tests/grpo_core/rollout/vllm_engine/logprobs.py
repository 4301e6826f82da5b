"""How far a completion's log-probabilities are from those of a plain forward pass."""

from __future__ import annotations

from typing import Any

import numpy as np

from grpo_core.types import Completion


def error_of(plain: Any, completion: Completion, plain_logprobs: Any) -> float:
    import torch

    with torch.no_grad():
        expected = plain_logprobs(plain, completion).numpy()
    return float(np.abs(completion.sampling_logprobs - expected).max())
