"""A pytest plugin that records the verdict rows of a commit for ``pytest_grpo.bisect.judge``.

It is copied out of the code under test, whose rows may have other fields than today's.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

_FOLDER = Path(__file__).resolve().parent.parent
"""The temporary folder that contains the worktree."""


@pytest.hookimpl(optionalhook=True)
def pytest_grpo_verdict(row: Any) -> None:
    with open(os.environ["GRPO_BISECT_ROWS"], "a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(row)) + "\n")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """End the session with an error when a module comes from the user's working tree instead of the commit."""
    tree, elsewhere = Path(os.environ["GRPO_BISECT_MAIN_TREE"]), (Path(sys.prefix).resolve(), _FOLDER)
    files = [Path(name).resolve() for module in list(sys.modules.values()) if (name := _file_name(module))]
    strays = [file for file in files if file.is_relative_to(tree) and not any(map(file.is_relative_to, elsewhere))]
    if strays:
        session.exitstatus = pytest.ExitCode.INTERNAL_ERROR
        print(f"{min(strays)} was imported from the working tree, not from the commit", file=sys.stderr)


def _file_name(module: ModuleType | None) -> str | None:
    return module.__file__ if isinstance(module, ModuleType) and "__file__" in vars(module) else None
