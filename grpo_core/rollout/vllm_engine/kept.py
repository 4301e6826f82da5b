"""Keeps vLLM running for the next engine with the same settings: a start takes half a minute or more.

```python
with kept().on():
    ...  # many engines, one after the other
```
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from grpo_core.errors import GrpoError

if TYPE_CHECKING:
    from grpo_core.rollout.vllm_engine.client import VllmClient

Settings = tuple[Mapping[str, Any], Sequence[int]]


class KeptVllm:
    """At most one vLLM that no engine uses: on a GPU there is memory for one."""

    def __init__(self) -> None:
        self._is_on = False
        self._idle: tuple[Settings, VllmClient] | None = None

    @contextmanager
    def on(self) -> Iterator[KeptVllm]:
        """In this block the vLLM of an engine that is closed waits for the next one. A block inside changes nothing."""
        if self._is_on:
            yield self
            return
        self._is_on = True
        try:
            yield self
        finally:
            self._is_on = False
            self._end_idle()

    def take(self, settings: Settings) -> VllmClient | None:
        """The one that waits, if it has these ``settings``; another one ends, so that the next has its memory."""
        if self._idle is not None and self._idle[0] == settings:
            (_, client), self._idle = self._idle, None
            return client
        self._end_idle()
        return None

    def give_back(self, client: VllmClient, settings: Settings) -> None:
        """Keep ``client`` as new, or end it: outside the block, where another one waits, or where vLLM has died."""
        if self._is_on and self._idle is None:
            try:
                client.renew()
            except GrpoError:  # it has died, or hangs
                client.close()
                return
            self._idle = (settings, client)
        else:
            client.close()

    def _end_idle(self) -> None:
        if self._idle is not None:
            (_, client), self._idle = self._idle, None
            client.close()


_KEPT = KeptVllm()


def kept() -> KeptVllm:
    """The one of this process."""
    return _KEPT
