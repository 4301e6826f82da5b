"""A folder that a user types commands in, with modules of their own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def working_in(folder: Path, home: Path, *modules: str) -> Iterator[None]:
    """``folder`` is the working folder. ``modules``, which are imported from there, are forgotten at the end."""
    path = list(sys.path)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("GRPO_HOME", str(home))
        yield
    sys.path[:] = path
    for module in modules:
        sys.modules.pop(module, None)
