"""How long OpenMP's threads, which are torch's, spin on a core when they have nothing to do."""

from __future__ import annotations

import os

SPIN_COUNT = 3000
"""40 to 150 us, by processor: longer than two threads wait for each other where nobody is in the way. GNU's own choice
is 300,000: beside another program, a thread then spins for as long as that program has its partner's core."""


def spin_briefly() -> None:
    """Have OpenMP's threads sleep soon. It reads this once per process: when torch is first imported.

    What the environment says already stays as it is.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPIN_COUNT))
