"""Something to wait for that many may wait for at once."""

from __future__ import annotations

import asyncio


class Bell:
    """Wakes everyone who waits, each time it rings. Whoever comes later waits for the next ring."""

    def __init__(self) -> None:
        self._ring = asyncio.Event()

    def ring(self) -> None:
        self._ring.set()
        self._ring = asyncio.Event()

    async def wait(self, timeout_s: float) -> bool:
        """Whether it rang in time."""
        try:
            await asyncio.wait_for(self._ring.wait(), max(timeout_s, 0))
        except TimeoutError:
            return False
        return True
