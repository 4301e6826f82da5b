"""Where phase tests can run, other than in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

Event = dict[str, Any]
"""Something that happened in the other process, as JSON. ``event`` is one of:

- ``report``: ``data`` is a serialised test report
- ``warning``: ``message``, ``category`` (class name), ``when``, ``nodeid``, ``filename``, ``lineno``, ``location``
- ``end``: ``exit_code`` of pytest and ``output_tail``, the last lines that it printed
"""


class RemoteLostError(RuntimeError):
    """The place where tests run was lost. That is no verdict: each test without a report becomes an error."""


class Remote(Protocol):
    """A place that runs tests and says what happened."""

    def run(self, node_ids: Sequence[str], arguments: Sequence[str]) -> Iterator[Event]:
        """Run pytest with ``arguments`` on ``node_ids``, which are relative to the root of the project there.

        Events may repeat when the place retries; the last complete run of a test counts.

        Raises:
            RemoteLostError: the place was lost; events so far were yielded.
        """
        ...
