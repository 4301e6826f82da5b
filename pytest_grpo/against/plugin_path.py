"""The import path of a process that runs this plugin with the code of another tree."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from pytest_grpo.remote.worker import worker_environment
from pytest_grpo.sides.interpreter import this_python

UNSHADOWED = ("-P",)
"""Python does not look first in the folder that it starts in, which may hold another version of the plugin."""


def python_path(scratch: Path, folders: Sequence[str]) -> str:
    """A value for ``PYTHONPATH``: this plugin first, without what stands beside it, then ``folders``.

    The plugin is found by a link in ``scratch``, an empty folder that must stay as long as the process.
    """
    own = scratch / "plugin"
    own.mkdir()
    (own / "pytest_grpo").symlink_to(Path(__file__).resolve().parent.parent, target_is_directory=True)
    return os.pathsep.join([str(own), *folders])


def environment_with_plugin(python: Path, scratch: Path, folders: Sequence[str]) -> dict[str, str]:
    """This process's environment for a pytest of ``python``, which loads this plugin and imports from ``folders``.

    ``scratch`` is as in ``python_path``.
    """
    own = None if python == this_python() else has_plugin(python)
    return worker_environment(is_installed=own) | {"PYTHONPATH": python_path(scratch, folders)}


def has_plugin(python: Path) -> bool:
    """Whether pytest finds this plugin by itself in the environment of ``python``."""
    code = "from importlib.metadata import entry_points as e; print(*(each.value for each in e(group='pytest11')))"
    done = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=True)
    return "pytest_grpo.plugin" in done.stdout.split()
