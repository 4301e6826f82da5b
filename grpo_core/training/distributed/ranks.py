"""Data-parallel training: the few collective operations that a trainer needs.

Each process has the whole batch, and trains on its share of the groups. The loss is normalised by totals of the whole
batch, so the gradients of the shares add up to the gradient of a single process. Gradients are summed once per step,
after all micro-batches, so processes may have different numbers of micro-batches.

With ``shard_base_weights`` each process keeps only a shard of the frozen weights, and every forward and backward pass
is collective: a process that has run out of work makes idle passes (``grpo_core.training.batches.micro_batches``).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from grpo_core.errors import LostProcessError
from grpo_core.ledger import spans
from grpo_core.types import Float64

COLLECTIVE_TIMEOUT = timedelta(hours=12)  # processes wait for the next batch, and for the slowest of them
BUCKET_NUMBERS = 1 << 26


class Ranks(Protocol):
    """Process ``rank`` of ``size``. All processes must call the same methods in the same order."""

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    def share(self, costs: Sequence[int]) -> list[int]:
        """Partition pieces of work with these ``costs``; the indices of this process's part."""
        ...

    def add_up_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """All-reduce the gradients of ``parameters``: each becomes its sum over all processes. None counts as 0.

        This and the methods below raise LostProcessError when another process has died.
        """
        ...

    def total(self, values: Float64) -> Float64:
        """Sum over all processes, element by element."""
        ...

    def lowest(self, values: Float64) -> Float64:
        """Minimum over all processes, element by element."""
        ...

    def broadcast(self, content: bytes) -> bytes:
        """The ``content`` of process 0. What the others pass is ignored."""
        ...


class SingleProcess:
    """Implements ``Ranks`` for a single process."""

    rank = 0
    size = 1

    def share(self, costs: Sequence[int]) -> list[int]:
        return list(range(len(costs)))

    def add_up_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        pass

    def total(self, values: Float64) -> Float64:
        return values

    def lowest(self, values: Float64) -> Float64:
        return values

    def broadcast(self, content: bytes) -> bytes:
        return content


class ProcessGroup:
    """Implements ``Ranks`` on torch's default process group."""

    def __init__(self) -> None:
        self.rank = dist.get_rank()
        self.size = dist.get_world_size()

    def share(self, costs: Sequence[int]) -> list[int]:
        """Greedy: the most expensive piece first, each to the least loaded process (Graham 1969, LPT)."""
        loads = [0] * self.size
        own = []
        for index in sorted(range(len(costs)), key=lambda index: (-costs[index], index)):
            rank = loads.index(min(loads))
            loads[rank] += costs[index]
            if rank == self.rank:
                own.append(index)
        return sorted(own)

    def add_up_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        for bucket in _buckets(parameters):
            gradients = [_gradient(parameter) for parameter in bucket]
            flat = torch.cat([gradient.flatten() for gradient in gradients])
            with self._others():
                dist.all_reduce(flat)
            for gradient, part in zip(gradients, flat.split([item.numel() for item in gradients]), strict=True):
                gradient.copy_(part.view_as(gradient))

    def total(self, values: Float64) -> Float64:
        return self._reduced(values, dist.ReduceOp.SUM)

    def lowest(self, values: Float64) -> Float64:
        return self._reduced(values, dist.ReduceOp.MIN)

    def broadcast(self, content: bytes) -> bytes:
        size = torch.tensor([len(content)], dtype=torch.int64)
        with self._others(), spans.WAIT_PROCESSES:
            dist.broadcast(size, src=0)
            values = torch.empty(int(size), dtype=torch.uint8)
            if self.rank == 0:
                values = torch.from_numpy(np.frombuffer(content, dtype=np.uint8).copy())
            dist.broadcast(values, src=0)
        return values.numpy().tobytes()

    def _reduced(self, values: Float64, operation: dist.ReduceOp.RedOpType) -> Float64:
        reduced = torch.from_numpy(values.astype(np.float64))
        with self._others(), spans.WAIT_PROCESSES:
            dist.all_reduce(reduced, operation)
        return reduced.numpy()

    @contextmanager
    def _others(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # torch raises nothing narrower for a closed connection
            raise LostProcessError(
                f"process {self.rank}: another process is gone ({str(error).splitlines()[0]}); its own message says "
                "why; then continue with --resume"
            ) from error


@contextmanager
def open_ranks() -> Iterator[Ranks]:
    """The process group that ``torchrun`` set up, or ``SingleProcess`` without it.

    Each process takes the GPU of its local rank. One that fails closes its connections, so the others fail, too, and do
    not wait.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield SingleProcess()
        return
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=COLLECTIVE_TIMEOUT)
    try:
        yield ProcessGroup()
    finally:
        dist.destroy_process_group()


def _buckets(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Buckets of one dtype and at most ``BUCKET_NUMBERS`` elements; a larger parameter is a bucket of its own."""
    bucket: list[nn.Parameter] = []
    for parameter in parameters:
        size = sum(item.numel() for item in bucket) + parameter.numel()
        if bucket and (size > BUCKET_NUMBERS or parameter.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(parameter)
    if bucket:
        yield bucket


def _gradient(parameter: nn.Parameter) -> Tensor:
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad
