"""How many graphs ``torch.compile`` made in this process: FlexAttention's, one per bucket of tokens, on a GPU."""

from __future__ import annotations

import sys


class Compilations:
    """Counts from when it is made. A run that goes on compiling after its first steps loses seconds each time."""

    def __init__(self) -> None:
        self._num_before = _num_graphs()

    def num_new(self) -> int:
        """Since the last call."""
        before, self._num_before = self._num_before, _num_graphs()
        return self._num_before - before


def _num_graphs() -> int:
    dynamo = sys.modules.get("torch._dynamo.utils")  # torch imports it when it compiles for the first time
    return 0 if dynamo is None else int(dynamo.counters["stats"]["unique_graphs"])
