"""What the device can do at most, and the model that the other parts load."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from bench.gpu_study.row import Row, Work
from bench.gpu_study.shape import SHAPES, write_shape
from grpo_core.training.utilization.bandwidth import read_rate
from grpo_core.training.utilization.flops import matrix_rate

READ_BYTES = 1 << 30


def measure_machine(work: Work) -> Iterator[Row]:
    """Write the model, and time a large product of matrices and a large read."""
    device, dtype = torch.device(work.device), getattr(torch, work.dtype)
    write_shape(SHAPES[work.shape], Path(work.model), device, dtype)
    rate = matrix_rate(device, dtype, torch.get_num_threads())
    yield Row(name="matrix_tflops", value=rate / 1e12, unit="TFLOP/s", note=f"a large product in {work.dtype}")
    bandwidth = read_rate(device, READ_BYTES, torch.get_num_threads())
    yield Row(name="read_gb_per_second", value=bandwidth / 1e9, unit="GB/s", note="a matrix times a vector")
