"""What a reader of one format has."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from pytest_grpo.logs.records import Reading
from pytest_grpo.logs.vocabulary.vocabulary import Vocabulary


class Reader(Protocol):
    """Reads one format. ``name`` is what ``--format`` takes, ``title`` what a message calls the format."""

    @property
    def name(self) -> str: ...

    @property
    def title(self) -> str: ...

    def recognises(self, path: Path) -> bool:
        """Whether the content of ``path`` is of this format."""
        ...

    def read(self, path: Path) -> Reading:
        """Its records in the order of the log. A line that is damaged or cut off is left out, with a note.

        Raises:
            pytest.UsageError: nothing of it can be read.
        """
        ...

    def vocabulary(self, reading: Reading) -> Vocabulary:
        """Whose names ``reading`` has."""
        ...
