"""Conditions for the fast path of this folder's modules."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def is_plain(x: Tensor) -> bool:
    """Whether ``x`` is on a CPU, in float32 or float64, and autocast does not change that."""
    is_exact = x.dtype in (torch.float32, torch.float64)
    return x.device.type == "cpu" and is_exact and not torch.is_autocast_enabled("cpu")


def is_frozen(module: nn.Module, dtype: torch.dtype) -> bool:
    """Whether none of ``module``'s parameters is trained, and all are of ``dtype``."""
    return all(not parameter.requires_grad and parameter.dtype == dtype for parameter in module.parameters())
