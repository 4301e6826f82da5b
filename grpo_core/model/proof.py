"""What proofs on random ids share: ids without a special meaning, and when two ways give the same numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from grpo_core.errors import ModelError, first_line
from grpo_core.model.policy import Policy
from grpo_core.types import Int32

TOLERANCE = 1e-3
"""Standard deviations of the logits by which values may differ, root mean square."""
HALF_TOLERANCE = 0.1  # in bfloat16 and float16; where sequences see each other, or states are lost, it is about 1
_MAX_ID = 1 << 16


def ordinary_ids(policy: Policy) -> Int32:
    """Ids of the model that its configuration does not name, as it names padding or the place of an image."""
    config: Any = policy.model.config
    settings = [config.to_dict(), config.get_text_config(decoder=True).to_dict()]
    named = [value for part in settings for name, value in part.items() if name.endswith(("token_id", "token_index"))]
    special = {token for value in named for token in (value if isinstance(value, list) else [value])}
    return np.array([token for token in range(min(policy.vocab_size, _MAX_ID)) if token not in special], dtype=np.int32)


def own_logits(policy: Policy, ids: Int32) -> Tensor:
    """Logits [T, V] in float64, on the CPU, that the whole model has after each of ``ids`` [T]: no layout, no cache.

    Raises:
        ModelError: the model fails on plain tokens.
    """
    model: Any = policy.model
    try:
        logits = model(input_ids=torch.from_numpy(ids.astype(np.int64))[None].to(policy.device), use_cache=False).logits
    except Exception as error:  # whatever another project's model raises
        raise ModelError(
            f"model {policy.name!r} of architecture {policy.architecture!r}: fails on {len(ids)} plain tokens "
            f"({type(error).__name__}: {first_line(error)}); use another model"
        ) from error
    return logits[0].double().cpu()


def difference(policy: Policy, found: Tensor, expected: Tensor, scale: float) -> str:
    """How ``found`` differs from ``expected``, in units of ``scale``; empty where it does not but for rounding."""
    dtype = next(policy.model.parameters()).dtype
    tolerance = HALF_TOLERANCE if dtype in (torch.bfloat16, torch.float16) else TOLERANCE
    gap = float((found - expected).square().mean().sqrt()) / scale
    return "" if gap <= tolerance else f"off by {gap:.2g} standard deviations of the logits"
