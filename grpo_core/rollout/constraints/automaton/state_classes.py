"""Classes of states of a byte automaton that allow the same texts, as far as some bytes ahead.

A counter such as ``{0,400}`` has hundreds of states. Far from its end they differ only in what remains.

Legend: S states, and one more, the dead one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from grpo_core.types import Int32

_SEED = 0


def classes_ahead(seeds: NDArray[np.integer], table: Int32, num_bytes: int) -> Int32:
    """[S + 1]: states of one class lead to equal ``seeds`` [S + 1] by every text of at most ``num_bytes`` bytes.

    ``table`` [S + 1, kinds] has the next state by kind of byte. Equal hashes of 64 bits stand for equal texts.
    """
    rng = np.random.default_rng(_SEED)
    factors = rng.integers(1 << 63, size=table.shape[1], dtype=np.uint64) | np.uint64(1)
    values = rng.integers(1 << 63, size=int(seeds.max()) + 1, dtype=np.uint64)
    own = values[seeds]
    seen = own  # a hash of what each state allows so far ahead
    for _ in range(num_bytes):
        mixed = (seen ^ (seen >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed ^= mixed >> np.uint64(32)
        seen = own + (mixed[table] * factors).sum(axis=1, dtype=np.uint64)
    return np.unique(seen, return_inverse=True)[1].reshape(-1).astype(np.int32)
