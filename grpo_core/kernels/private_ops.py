"""torch's internal operators that this project calls, in one place. Checked with torch 2.13.

They have no public name, so an upgrade of torch may rename them or change their arguments. ``profiler.py`` uses
one more internal, ``torch._C._profiler._ExperimentalConfig``, which it imports only while it traces.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.autograd import profiler

onednn_linear = torch.ops.mkldnn._linear_pointwise.default if torch.backends.mkldnn.is_available() else None
"""``F.linear`` by oneDNN, as torch's own compiler emits it on a CPU. None where torch is built without oneDNN."""

softmax_backward = torch.ops.aten._softmax_backward_data.out
"""The gradient of a softmax, which can be written over its input."""

silu_backward = torch.ops.aten.silu_backward.grad_input
"""The gradient of ``F.silu``, which can be written over its input."""

cpu_flash_attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
"""``F.scaled_dot_product_attention`` on a CPU, with the log-sum-exp of the scores, which the public one drops."""


def annotation(name: str) -> AbstractContextManager[Any]:
    """``record_function`` while a profiler runs. Otherwise nothing: 0.05 to 0.1 ms of a decode step that takes 1."""
    return profiler.record_function(name) if profiler._is_profiler_enabled else nullcontext()
