"""Several processes that train one policy: what a trainer asks of the others, and nothing else.

Each process has the whole batch, and trains on the groups that are its share. The weights of the loss are made of
totals of the whole batch, so the gradients of all shares add up to the gradient of one process. Sums are all that
goes between them: the gradient once per step, whatever the number of micro-batches, so that shares may take different
numbers of them.

With ``shard_base_weights`` each process keeps a part of the frozen weights only. Then every forward and backward pass
is one of all processes together: who has run out of work makes idle ones (``grpo_core.training.micro_batches``).
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
from grpo_core.types import Float64

PATIENCE = timedelta(hours=12)  # of those who wait for the next batch, or for the slowest of them
BUCKET_NUMBERS = 1 << 26


class Ranks(Protocol):
    """The processes, as the one with number ``rank`` of ``size`` sees them. All call the same, in the same order."""

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    def share(self, costs: Sequence[int]) -> list[int]:
        """Indices of the pieces of work with these ``costs`` that are this process's to do."""
        ...

    def add_up_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace the gradient of each of ``parameters`` by its sum over all processes. None counts as 0.

        This and all below raise LostProcessError when another process is gone.
        """
        ...

    def total(self, values: Float64) -> Float64:
        """Sum over all processes, element by element."""
        ...

    def lowest(self, values: Float64) -> Float64:
        """Minimum over all processes, element by element."""
        ...

    def broadcast(self, content: bytes) -> bytes:
        """What process 0 gave; the others give anything."""
        ...


class SingleProcess:
    """Implements ``Ranks`` where there are no others."""

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
        """The most expensive piece first, each to the process that has the least so far (Graham 1969)."""
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
        with self._others():
            dist.broadcast(size, src=0)
            values = torch.empty(int(size), dtype=torch.uint8)
            if self.rank == 0:
                values = torch.from_numpy(np.frombuffer(content, dtype=np.uint8).copy())
            dist.broadcast(values, src=0)
        return values.numpy().tobytes()

    def _reduced(self, values: Float64, operation: dist.ReduceOp.RedOpType) -> Float64:
        reduced = torch.from_numpy(values.astype(np.float64))
        with self._others():
            dist.all_reduce(reduced, operation)
        return reduced.numpy()

    @contextmanager
    def _others(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # torch has no narrower one for a closed connection
            raise LostProcessError(
                f"process {self.rank}: another process is gone ({str(error).splitlines()[0]}); its own message says "
                "why; then continue with --resume"
            ) from error


@contextmanager
def open_ranks() -> Iterator[Ranks]:
    """The processes that ``torchrun`` started, this one among them; on its own when it did not.

    Each takes the GPU of its local rank. An error in one closes its connections, which ends the others' waiting.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield SingleProcess()
        return
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=PATIENCE)
    try:
        yield ProcessGroup()
    finally:
        dist.destroy_process_group()


def _buckets(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Neighbours of one dtype, at most ``BUCKET_NUMBERS`` numbers together unless one alone has more."""
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
